"""Bulk at its full size: rows per second of a batch through the API, memory of the web process, cancel of the rest. With
`--million`, all of it on PostgreSQL beside a queue of a million jobs, and the seconds of the pages there.

Peer: the same number of bare rows put into the same database by one `executemany`, with no parsing and no checks.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select, text

from farm.client.http import Client
from farm.db.engine import make_engine, make_sessions
from farm.db.models import Model, User
from tests.support.crowd import add_crowd
from tests.support.farm import RunningFarm, running_farm

ROWS = (1_000, 10_000, 100_000)
MILLION = 1_000_000
PAGES = (
    "/queue",
    "/batches",
    "/batches/{batch}",
    "/api/v1/jobs",
    "/api/v1/batches/{batch}/jobs",
    "/api/v1/stats",
)
VISITS = 5


def main() -> None:
    million = "--million" in sys.argv[1:]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        # PostgreSQL never runs as root, and its own user has to reach its folder
        Path(name).chmod(0o755)
        with running_farm(Path(name) / "farm", *(["--postgres"] if million else []), workers=0) as farm:
            measure(farm, Path(name), results, million=million)
    print(json.dumps(results))


def measure(farm: RunningFarm, folder: Path, results: dict[str, Any], *, million: bool) -> None:
    if million:
        results["filled_s"] = timed(lambda: fill(farm))
        print(f"a million jobs made inside the database in {results['filled_s']:.0f} s")
        visit(farm, results, "pages_s")
    for rows in ROWS:
        results[str(rows)] = found = of_batch(farm, folder, rows)
        print(f"{rows} rows: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    if million:
        visit(farm, results, "pages_after_cancel_s")


def visit(farm: RunningFarm, results: dict[str, Any], name: str) -> None:
    """Seconds of each page."""
    batch = farm.client().get("/batches")["items"][0]["id"]
    results[name] = found = {path: of_page(farm, path.format(batch=batch)) for path in PAGES}
    for path, seconds in found.items():
        print(f"{name} {path}: {1000 * seconds:.0f} ms, the median of {VISITS}")


def of_batch(farm: RunningFarm, folder: Path, rows: int) -> dict[str, float]:
    """A batch of `rows` rows is sent, then cancelled."""
    lines = [
        json.dumps(
            {
                "prompt": f"a red circle <lora:ink:{row % 50 / 100}>",
                "steps": 8,
                "seed": row,
                "priority": "bulk",
            }
        )
        for row in range(rows)
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines))
    client, web = farm.client(), web_process(farm)
    before = memory(web)
    batch: dict[str, Any] = {}
    ours = timed(lambda: batch.update(send(client, path)))
    assert batch["total"] == rows
    grown = memory(web) - before
    cancelled: dict[str, Any] = {}
    cancel = timed(lambda: cancelled.update(client.post(f"/batches/{batch['id']}:cancel")))
    assert cancelled["cancelled"] == rows
    bare = bare_inserts(farm, lines)
    return {
        "seconds": ours, "rows_per_s": rows / ours, "bare_rows_per_s": rows / bare, "ratio": bare / ours,
        "web_grew_mb": grown, "cancel_all_s": cancel, "cancel_to_bare_inserts": cancel / bare,
    }  # fmt: skip


def send(client: Client, path: Path) -> dict[str, Any]:
    answer = client.request(
        "POST", "/batches", params={"name": "bulk"}, content=path.read_bytes,
        headers={"Content-Type": "application/x-ndjson"}, timeout_seconds=600,
    )  # fmt: skip
    found: dict[str, Any] = answer.json()
    return found


def bare_inserts(farm: RunningFarm, lines: list[str]) -> float:
    """Seconds for as many rows with two columns, in one transaction."""
    engine = make_engine(farm.info["database_url"])
    with engine.begin() as connection:
        connection.execute(text("drop table if exists bare"))
        connection.execute(text("create table bare (id integer primary key, state text, spec text)"))
    statement = text("insert into bare (id, state, spec) values (:id, 'queued', :spec)")
    rows = [{"id": number, "spec": line} for number, line in enumerate(lines)]

    def insert() -> None:
        with engine.begin() as connection:
            connection.execute(statement, rows)

    try:
        return timed(insert)
    finally:
        engine.dispose()


def fill(farm: RunningFarm) -> None:
    engine = make_engine(farm.info["database_url"])
    with make_sessions(engine)() as session:
        model = session.scalars(select(Model.id)).first()
        owner = session.scalars(select(User.id)).first()
        assert model is not None
        assert owner is not None
        add_crowd(session, MILLION, model=model, owner=owner, stranger=owner)
    engine.dispose()


def of_page(farm: RunningFarm, path: str) -> float:
    """Median seconds of a page for somebody who is logged in."""
    with httpx.Client(base_url=farm.url, timeout=60) as browser:
        browser.get("/login", params={"token": farm.api_key, "next": "/"})
        return statistics.median(timed(lambda: browser.get(path).raise_for_status()) for _ in range(VISITS))


def web_process(farm: RunningFarm) -> list[psutil.Process]:
    """The web service: gunicorn and its one process with threads."""
    parent = psutil.Process(farm.pid("web"))
    return [parent, *parent.children(recursive=True)]


def memory(processes: list[psutil.Process]) -> float:
    """Their resident memory in MB."""
    return sum(process.memory_info().rss for process in processes) / 2**20


def timed(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
