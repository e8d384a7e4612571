"""`farm doctor`: check each part and say what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from typing import Annotated

import redis as redis_client
import typer
from alembic.util.exc import CommandError
from sqlalchemy.exc import SQLAlchemyError

from farm.cli.direct import with_info_file
from farm.cli.errors import EXIT_FAILED
from farm.cli.output import print_json, say
from farm.client.http import Client
from farm.db.engine import make_engine, make_sessions, schema_state
from farm.errors import FarmError
from farm.jobs.stock import take_stock
from farm.settings import Settings, load_settings
from farm.store import keys
from farm.store.s3 import open_store

#: (what was found, what to do about it); the second is empty when all is well
Finding = tuple[str, str]


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> int:
    """Check settings, programs, disk, database, Redis, store, what one names and the other holds, dashboard and workers."""
    settings = with_info_file(load_settings())
    findings = {name: _run(check, settings) for name, check in CHECKS.items()}
    if json:
        print_json({name: {"found": found, "remedy": remedy} for name, (found, remedy) in findings.items()})
    else:
        for name, (found, remedy) in findings.items():
            mark = ("✗", "red") if remedy else ("✓", "green")
            say(mark, f" {name:10} {found}", f"\n             → {remedy}" if remedy else "")
    return EXIT_FAILED if any(remedy for _, remedy in findings.values()) else 0


def _run(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except FarmError as error:
        return error.message, error.hint or "see the message"


def _settings(settings: Settings) -> Finding:
    known = {f"FARM_{name.upper()}" for name in type(settings).model_fields}
    strangers = sorted(name for name in os.environ if name.startswith("FARM_") and name not in known)  # noqa: TID251
    if strangers:
        return (
            f"unknown: {', '.join(strangers)}",
            "remove them or correct the names; docs/reference/settings.md lists all",
        )
    return f"data folder {settings.data_dir.absolute()}", ""


def _python(_: Settings) -> Finding:
    parts = [f"Python {sys.version.split()[0]}"]
    if importlib.util.find_spec("torch") is None:
        return parts[0] + ", no torch", 'a worker needs it: pip install "farm[worker]"'
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU, workers use the CPU"
    return f"{parts[0]}, torch {torch.__version__}, {device}", ""


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    remedy = "" if free > 2 * 1024**3 else "free some space: models and caches need several GB"
    return f"{free / 1024**3:.1f} GB free at {folder}", remedy


def _database(settings: Settings) -> Finding:
    engine = make_engine(settings.resolved_database_url())
    try:
        have, want = schema_state(engine)
    except (SQLAlchemyError, CommandError) as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        return f"cannot be reached: {reason}", "check FARM_DATABASE_URL, or start the farm with `farm up`"
    finally:
        engine.dispose()
    if have != want:
        return f"schema {have or 'missing'}, this version wants {want}", "run `farm db upgrade`"
    return f"{engine.dialect.name}, schema {have}", ""


def _redis(settings: Settings) -> Finding:
    url = settings.redis_url.get_secret_value()
    if not url:
        return "not set", "set FARM_REDIS_URL, or start the farm with `farm up`"
    try:
        info = redis_client.Redis.from_url(url, socket_timeout=3).info("server")
    except redis_client.RedisError as error:
        return f"cannot be reached: {error}", "check FARM_REDIS_URL and that the server runs"
    assert isinstance(info, dict)
    return f"answers, version {info.get('valkey_version') or info['redis_version']}", ""


def _store(settings: Settings) -> Finding:
    if not settings.s3_endpoint:
        return "not set", "set FARM_S3_ENDPOINT and its keys, or start the farm with `farm up`"
    store = open_store(settings)
    store.put_bytes("doctor/probe", b"probe", "text/plain")
    same = store.get_bytes("doctor/probe") == b"probe"
    store.delete("doctor/probe")
    return (
        f"{settings.s3_endpoint} keeps what it is given",
        "" if same else "the store answered with other bytes",
    )


def _objects(settings: Settings) -> Finding:
    """Every row's object, every object's row: what a restore of only one of the two leaves behind."""
    if not settings.s3_endpoint:
        return "not compared: no store is set", "see the store"
    store, engine = open_store(settings), make_engine(settings.resolved_database_url())
    listed = (item.key for prefix in (keys.BLOBS, keys.RESULTS) for item in store.list_objects(prefix))
    try:
        with make_sessions(engine)() as session:
            stock = take_stock(session, list(listed))
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        return f"not compared: {reason}", "see the database"
    finally:
        engine.dispose()
    found = f"{len(stock.missing)} missing from the store, {len(stock.orphans)} named by no row"
    lines = [f"missing: {what} ({key})" for what, key in stock.missing]
    lines += [f"named by no row: {key}" for key in stock.orphans]
    remedy = "put the missing objects back, or delete their rows" if stock.missing else ""
    return "\n             ".join([found, *lines]), remedy


def _farm(settings: Settings) -> Finding:
    from farm.cli.context import find_farm

    url, key = find_farm(settings)
    workers = Client(url, key).get("/workers")["items"]
    up = [worker["name"] for worker in workers if worker["state"] == "up"]
    ill = [worker for worker in workers if worker["reason"]]
    if ill:
        found = "; ".join(f"{worker['name']} is {worker['state']}: {worker['reason']}" for worker in ill)
        return f"{url} answers; {found}", "look at the log of each; a suspect one may have a broken device"
    if not up:
        return f"{url} answers, no worker is up", "start one: farm worker"
    return f"{url} answers; up: {', '.join(up)}", ""


CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "settings": _settings,
    "python": _python,
    "disk": _disk,
    "database": _database,
    "redis": _redis,
    "store": _store,
    "objects": _objects,
    "farm": _farm,
}
