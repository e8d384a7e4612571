"""Redis, SQL, S3 and the disk fail in every way they can; jobs wait, and nothing is made up."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select
from werkzeug.test import TestResponse

from farm.db.models import Attempt, Job
from farm.embedded.servers import SeaweedServer, ValkeyServer
from farm.jobs import views
from farm.web.app import create_app
from tests.chaos.fleet import CONTEXT, UNHURRIED, Fault, Fleet
from tests.support.databases import PostgresServer
from tests.support.history import check_cache
from tests.support.jobs import told_of
from tests.support.proxy import Mode, Proxy
from tests.support.stores import running_postgres
from tests.support.web import WebFarm, fresh_farm, lora_file, web_app

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite, unless a test is about PostgreSQL."""
    return sqlite_url


def calm(fleet: Fleet) -> None:
    """No job was given up, retried or taken for a crash."""
    found = {(job.attempt, job.crash_count, job.retry_count) for job in map(fleet.rig.job, fleet.jobs)}
    assert found == {(1, 0, 0)}, fleet.logs()


# Redis


def test_g04_a_redis_emptied_all_the_time_loses_nothing(fleet: Fleet, redis: Redis) -> None:
    stop = threading.Event()

    def flush() -> None:
        while not stop.wait(0.2):
            redis.flushall()

    flusher = threading.Thread(target=flush)
    flusher.start()
    try:
        fleet.scheduler()
        for name in ("one", "two"):
            fleet.worker(name)
        fleet.submit(10)
        fleet.finished()
    finally:
        stop.set()
        flusher.join()


def test_g04_a_redis_killed_with_its_data_is_done_without_and_comes_back(
    fleet: Fleet, tmp_path: Path
) -> None:
    server = ValkeyServer(tmp_path / "redis")
    server.start()
    try:
        redis_url = SecretStr(server.url)
        fleet.scheduler(redis_url=redis_url)
        fleet.worker("one", redis_url=redis_url)
        fleet.submit(2)
        fleet.finished()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        fleet.submit(3)
        fleet.finished()
        server.stop()
        for path in server.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix != ".conf":
                path.unlink()
        server.start()
        fleet.submit(3)
        fleet.finished()
    finally:
        server.stop()


def test_g04_a_redis_that_swallows_everything_delays_jobs_only(fleet: Fleet, valkey: ValkeyServer) -> None:
    with Proxy("127.0.0.1", valkey.port) as proxy:
        redis_url = SecretStr(valkey.url.replace(f":{valkey.port}/", f":{proxy.port}/"))
        fleet.scheduler(redis_url=redis_url)
        fleet.worker("one", redis_url=redis_url)
        fleet.submit(1)
        fleet.finished()
        proxy.set("blackhole")
        fleet.submit(2)
        fleet.finished()
        proxy.set("pass")


# SQL


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


class TestPostgres:
    """A server of its own, which may be killed."""

    @pytest.fixture
    def database_url(self, own_postgres: PostgresServer) -> str:
        return own_postgres.fresh()

    def test_g05_a_database_stopped_at_once_and_started_again_costs_no_job(
        self, fleet: Fleet, own_postgres: PostgresServer, seaweed: SeaweedServer
    ) -> None:
        lease = 5.0
        web = fresh_farm(
            create_app(
                fleet.rig.settings.model_copy(
                    update={"database_url": own_postgres.fresh(), "data_dir": fleet.rig.folder / "web"}
                )
            )
        )
        fleet.scheduler(lease_seconds=lease, claim_seconds=60.0)
        fleet.worker("one", Fault("step", act="slow"))
        (long,) = fleet.submit(steps=30)
        fleet.rig.wait_until(lambda: fleet.rig.job(long).step >= 1, fleet.logs)
        own_postgres.crash()
        crashed = time.monotonic()
        headers = {"Idempotency-Key": "kept"}
        answers = [web.post("/jobs", {"prompt": "a fox"}, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
        # longer than a lease, and beyond the job's last step: its pictures wait for their record
        fleet.rig.wait_until(lambda: fleet.logged("what=record", '"record"'), fleet.logs)
        fleet.rig.wait_until(lambda: time.monotonic() > crashed + lease + 0.5)
        own_postgres.start_again()
        fleet.finished()
        calm(fleet)
        accepted = web.post("/jobs", {"prompt": "a fox"}, headers=headers)
        assert accepted.status_code == 202
        with web.services.sessions() as session:
            assert len(session.scalars(select(Job.id)).all()) == 1
        web.services.engine.dispose()

    def test_g03_g05_a_worker_cut_off_from_sql_finishes_nothing_that_another_has(
        self, fleet: Fleet, own_postgres: PostgresServer
    ) -> None:
        url = own_postgres_url = fleet.rig.settings.database_url
        with Proxy("127.0.0.1", own_postgres.port) as proxy:
            url = own_postgres_url.replace(f":{own_postgres.port}/", f":{proxy.port}/")
            fleet.scheduler()
            fleet.worker("cut", Fault("step", act="slow"), database_url=url)
            (job,) = fleet.submit(steps=20)
            fleet.rig.wait_until(lambda: fleet.rig.job(job).step >= 1, fleet.logs)
            proxy.set("blackhole")
            fleet.worker("other")
            fleet.finished()
            proxy.set("pass")
            # the late record changes nothing, and the worker joins again
            fleet.rig.wait_until(lambda: fleet.logged("attempt_lost", "result_discarded"), fleet.logs)
            fleet.submit(3)
            fleet.finished()
            with fleet.rig.sessions() as session:
                outcomes = session.scalars(
                    select(Attempt.outcome).where(Attempt.job_id == job).order_by(Attempt.attempt)
                ).all()
            assert outcomes[0] == "lost"
            assert outcomes.count("succeeded") == 1


@dataclass(frozen=True)
class Address:
    """Where the store is, for `web_app`."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


def test_g05_a_locked_sqlite_is_waited_for_and_then_refused_without_a_trace(
    tmp_path: Path,
    sqlite_template: Path,
    redis_url: str,
    seaweed: SeaweedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("farm.db.engine.BUSY_MILLISECONDS", 400)
    farm = fresh_farm(web_app(tmp_path / "web", sqlite_template, redis_url, seaweed))
    other = sqlite3.connect(farm.folder / "farm.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    headers = {"Idempotency-Key": "once"}
    refused = farm.post("/jobs", {"prompt": "a fox"}, headers=headers)
    assert refused.status_code == 503
    assert "locked" not in refused.text
    assert jobs_of(farm) == []
    # from now on connections wait as long as in production
    monkeypatch.undo()
    farm.services.engine.dispose()
    letting_go = threading.Timer(0.1, other.execute, ("ROLLBACK",))
    letting_go.start()
    accepted = farm.post("/jobs", {"prompt": "a fox"}, headers=headers)
    letting_go.join()
    assert accepted.status_code == 202
    assert jobs_of(farm) == [accepted.get_json()["id"]]
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()
    farm.services.engine.dispose()


def hold_and_die(path: str) -> None:
    """A process that is killed in the middle of a transaction that has written."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 60000")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE jobs SET state = 'cancelled', worker_id = NULL, result_attempt = NULL")
    os.kill(os.getpid(), signal.SIGKILL)


def test_g05_a_sqlite_locked_for_five_seconds_and_a_writer_killed_within_its_transaction_cost_no_job(
    fleet: Fleet,
) -> None:
    path = fleet.rig.settings.database_url.removeprefix("sqlite:///")
    fleet.scheduler(lease_seconds=20.0, leader_lease_seconds=20.0)
    fleet.worker("one", Fault("step", act="slow"), lease_seconds=20.0)
    (long,) = fleet.submit(steps=30)
    fleet.rig.wait_until(lambda: fleet.rig.job(long).step >= 1, fleet.logs)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA busy_timeout = 60000")
    other.execute("BEGIN IMMEDIATE")
    time.sleep(5)
    other.execute("ROLLBACK")
    doomed = CONTEXT.Process(target=hold_and_die, args=(path,), daemon=True)
    doomed.start()
    doomed.join(60)
    assert doomed.exitcode == -signal.SIGKILL
    fleet.submit(3)
    fleet.finished()
    calm(fleet)
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()


def because(fleet: Fleet, job: str) -> str:
    """Why a job waits; "" while it does not."""
    return told_of(fleet.rig.sessions, job).because if fleet.rig.job(job).state == "queued" else ""


def jobs_of(farm: WebFarm) -> list[str]:
    with farm.services.sessions() as session:
        return list(session.scalars(select(Job.id)))


# S3


@pytest.fixture
def store_proxy(seaweed: SeaweedServer) -> Iterator[Proxy]:
    address = urlsplit(seaweed.endpoint)
    with Proxy(address.hostname or "", address.port or 0) as proxy:
        yield proxy


TROUBLES: dict[str, dict[str, Any]] = {
    "http_500": {"times": 5},
    "http_503": {"times": 5},
    "reset": {"times": 5},
    "truncate": {"after": 3000, "times": 3},
    "flip_down": {"times": 1},
    "delay": {"seconds": 0.02},
}


@pytest.mark.parametrize("mode", TROUBLES)
def test_g06_g07_a_store_that_fails_or_lies_spoils_no_file_and_no_job(
    fleet: Fleet, store_proxy: Proxy, tmp_path: Path, mode: Mode
) -> None:
    fleet.rig.add_adapter("ink")
    store_proxy.set(mode, **TROUBLES[mode])
    cold = tmp_path / "cold"
    fleet.scheduler(**UNHURRIED)
    fleet.worker("one", cache_dir=cold, s3_endpoint=f"http://127.0.0.1:{store_proxy.port}")
    fleet.submit(prompt="a fox <lora:ink:0.8>")
    fleet.finished()
    calm(fleet)
    check_cache(cold)
    assert store_proxy.hurt or mode == "delay"


def test_g06_a_picture_spoilt_on_its_way_to_the_store_is_sent_again(fleet: Fleet, store_proxy: Proxy) -> None:
    fleet.scheduler(**UNHURRIED)
    fleet.worker("one", s3_endpoint=f"http://127.0.0.1:{store_proxy.port}")
    fleet.submit()
    fleet.finished()
    store_proxy.set("flip_up", times=1)
    fleet.submit()
    fleet.finished()
    calm(fleet)
    assert store_proxy.hurt == 1


def test_g06_what_needs_a_store_that_is_away_is_not_begun_and_says_since_when(
    fleet: Fleet, store_proxy: Proxy
) -> None:
    fleet.rig.add_adapter("ink")
    endpoint = f"http://127.0.0.1:{store_proxy.port}"
    fleet.scheduler(s3_endpoint=endpoint)
    fleet.worker("one", s3_endpoint=endpoint)
    fleet.submit()
    fleet.finished()
    store_proxy.set("reset")
    fleet.rig.wait_until(lambda: "store_away" in fleet.logs(), fleet.logs)
    (cold,) = fleet.submit(prompt="a fox <lora:ink:0.8>")
    (hot,) = fleet.submit()
    fleet.rig.wait_until(lambda: "store unreachable since" in because(fleet, cold), fleet.logs, seconds=30)
    # what is there already is rendered, and its picture held until the store takes it
    fleet.rig.wait_until(lambda: fleet.rig.job(hot).stage == "uploading", fleet.logs)
    assert (fleet.rig.job(cold).state, fleet.rig.job(cold).attempt) == ("queued", 0)
    store_proxy.set("pass")
    fleet.finished()
    calm(fleet)


def test_g06_an_upload_is_refused_while_the_store_is_away(
    tmp_path: Path, sqlite_template: Path, redis_url: str, seaweed: SeaweedServer, store_proxy: Proxy
) -> None:
    address = Address(
        f"http://127.0.0.1:{store_proxy.port}", seaweed.access_key, seaweed.secret_key, seaweed.bucket
    )
    farm = fresh_farm(web_app(tmp_path / "web", sqlite_template, redis_url, address))  # type: ignore[arg-type]
    store_proxy.set("http_503")
    with pytest.raises(AssertionError, match="store_refused"):
        farm.add_adapter("ink")
    assert farm.get("/loras").get_json()["items"] == []
    # a job that needs nothing of it is accepted all the same
    assert farm.post("/jobs", {"prompt": "a fox"}).status_code == 202
    store_proxy.set("pass")
    farm.add_adapter("ink")
    farm.services.engine.dispose()


def test_g12_an_upload_that_a_full_disk_or_a_full_store_cannot_take_is_answered_507(
    tmp_path: Path,
    sqlite_template: Path,
    redis_url: str,
    seaweed: SeaweedServer,
    store_proxy: Proxy,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = Address(
        f"http://127.0.0.1:{store_proxy.port}", seaweed.access_key, seaweed.secret_key, seaweed.bucket
    )
    farm = fresh_farm(web_app(tmp_path / "web", sqlite_template, redis_url, address))  # type: ignore[arg-type]

    def upload() -> TestResponse:
        file = io.BytesIO(lora_file()), "ink.safetensors"
        return farm.post("/loras", data={"name": "ink", "file": file})

    store_proxy.set("http_507")
    answer = upload()
    assert (answer.status_code, answer.get_json()["code"]) == (507, "store_full")
    store_proxy.set("pass")
    ballast = small_disk / "ballast"
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(small_disk))
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
        answer = upload()
        assert (answer.status_code, answer.get_json()["code"]) == (507, "disk_full")
        assert list(small_disk.iterdir()) == [ballast]
        assert farm.get("/loras").get_json()["items"] == []
        ballast.unlink()
        assert upload().status_code == 201
    farm.services.engine.dispose()


# disks


def test_g07_a_cache_spoilt_or_emptied_under_a_worker_is_fetched_anew(fleet: Fleet, tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    ink = fleet.rig.add_adapter("ink")
    fleet.scheduler(**UNHURRIED)
    fleet.worker("one", cache_dir=cold, lora_in_memory_limit=0)
    fleet.submit(prompt="a fox <lora:ink:0.8>")
    fleet.finished()
    for damage in ("spoilt", "gone"):
        path = cold / "blobs" / ink["sha256"][:2] / ink["sha256"]
        if damage == "spoilt":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        else:
            for blob in (cold / "blobs").glob("*/*"):
                blob.unlink()
        fleet.submit(prompt="a fox <lora:ink:0.8>")
        fleet.finished()
        check_cache(cold)
    calm(fleet)


def test_g07_a_cache_folder_removed_under_a_running_job_is_made_anew(fleet: Fleet, tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    fleet.rig.add_adapter("ink")
    fleet.scheduler()
    fleet.worker("one", Fault("step", act="slow"), cache_dir=cold)
    (long,) = fleet.submit(steps=15)
    fleet.rig.wait_until(lambda: fleet.rig.job(long).step >= 1, fleet.logs)
    shutil.rmtree(cold)
    fleet.submit(prompt="a fox <lora:ink:0.8>")
    fleet.finished()
    calm(fleet)
    check_cache(cold)


def test_g12_a_worker_without_room_takes_nothing_until_there_is_some(fleet: Fleet, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    fleet.scheduler()
    fleet.worker("full", cache_dir=small_disk / "cache")
    fleet.rig.wait_until((small_disk / "cache" / "blobs").exists, fleet.logs)
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    (job,) = fleet.submit()
    fleet.rig.wait_until(lambda: "full: the disk of " in because(fleet, job), fleet.logs, seconds=30)
    with fleet.rig.sessions() as session:
        (worker,) = views.worker_views(session)
    assert worker["state"] == "blocked"
    assert "does not fit" in worker["reason"]
    # nobody tells it: it looks itself
    ballast.unlink()
    fleet.finished()
    row = fleet.rig.job(job)
    assert (row.crash_count, row.retry_count) == (0, 0)
    check_cache(small_disk / "cache")


def test_g12_a_full_disk_is_no_crash_and_leaves_no_half_file(fleet: Fleet, tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    fleet.scheduler(**UNHURRIED)
    fleet.worker("one", Fault("fetch", act="full", call=2), cache_dir=cold)
    (job,) = fleet.submit()
    fleet.finished()
    check_cache(cold)
    assert (fleet.rig.job(job).crash_count, fleet.rig.job(job).retry_count) == (0, 0)
    with fleet.rig.sessions() as session:
        details = session.scalars(select(Attempt.detail).where(Attempt.job_id == job)).all()
    assert any("full" in str(detail) for detail in details)
