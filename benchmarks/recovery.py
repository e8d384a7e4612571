"""Seconds from each fault until the job that it hit runs again, and until all is well: a real fleet, killed on purpose.

Two workers and two schedulers, PostgreSQL, Redis and S3 of their own, production's timers (`--quick`: those of the chaos
tests), a tiny model whose steps are slowed to a tenth of a second. `again` is when the job that was hit is claimed by a
living worker; `well` is when it and four jobs more have their pictures and a fresh job starts at once. `--only WORD …`
picks faults. Peer: plain Celery with acks_late on a Redis, a worker killed in the middle of a task.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy.exc import DBAPIError

from benchmarks._recovery_peer import redelivery
from benchmarks._recovery_stage import Services, fleet_of, running_services
from farm.db.models import Job
from farm.db.models import Worker as WorkerRow
from farm.embedded.servers import ValkeyServer
from tests.chaos.fleet import QUICK, Fault, Fleet, kill, leader
from tests.support.databases import PostgresServer
from tests.support.history import check_history
from tests.support.proxy import Proxy

#: production's, as `farm.settings` has them; previews only cost time here
PRODUCTION: dict[str, Any] = {
    "heartbeat_seconds": 5.0, "lease_seconds": 30.0, "leader_lease_seconds": 5.0, "claim_seconds": 15.0,
    "round_seconds": 1.0, "poll_seconds": 10.0, "drain_seconds": 25.0, "preview_every": 0,
}  # fmt: skip
#: a fresh job that starts within this is at once
AT_ONCE_SECONDS = 1.5
PATIENCE_SECONDS = 300.0
_ASIDE = ThreadPoolExecutor(1, "aside")
VISIBILITY_SECONDS = 10.0


@dataclass
class Site:
    """A running fleet, its services, and what a fault may be done to."""

    fleet: Fleet
    redis: ValkeyServer
    postgres: PostgresServer
    store: Proxy
    workers: dict[str, Any] = field(default_factory=dict)
    schedulers: list[Any] = field(default_factory=list)
    #: the job that runs when the fault comes
    job: str = ""

    @property
    def renderer(self) -> Any:
        """The process that renders the job."""
        with self.fleet.rig.sessions() as session:
            job = session.get_one(Job, self.job)
            return self.workers[session.get_one(WorkerRow, job.worker_id).name]

    @property
    def idle(self) -> Any:
        """The worker that the next job would go to."""
        return self.workers["one"]

    def aside(self, act: Callable[[], object]) -> None:
        """In a thread that stays: servers that it starts end with it."""
        _ASIDE.submit(act)


def _restart_worker(site: Site) -> None:
    hurt = site.renderer
    kill(hurt)
    hurt.join()
    site.workers[hurt.name] = site.fleet.worker(hurt.name, Fault("step", act="slow"), **_checkpoints(1.0))


def _lose_redis(site: Site, seconds: float = 0.0) -> None:
    """Kill it, and its data with it; another one comes after so many seconds."""
    assert site.redis.pid is not None
    os.kill(site.redis.pid, signal.SIGKILL)
    site.redis.stop()
    for path in site.redis.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    time.sleep(seconds)
    site.redis.start()


def _restart_postgres(site: Site) -> None:
    site.postgres.crash()
    site.postgres.start_again()


def _cut_store(site: Site) -> None:
    site.store.set("reset")
    time.sleep(10.0)
    site.store.set("pass")


def _checkpoints(seconds: float) -> dict[str, Any]:
    return {"checkpoint_seconds": seconds}


@dataclass(frozen=True, slots=True)
class Case:
    """A fault, and whose time counts."""

    name: str
    act: Callable[[Site], object]
    #: the job that runs when the fault comes, or the first one that is submitted right after it
    hit: Literal["running", "new"] = "running"
    #: seconds that the guarantees allow until it runs again, from the timers
    bound: Callable[[dict[str, Any]], float] | None = None
    #: seconds between two checkpoints; 0: none
    checkpoints: float = 1.0
    #: tenths of a second that the running job takes; 0: more than a drain gives it
    steps: int = 120


def _two_leases(timers: dict[str, Any]) -> float:
    return float(2 * timers["lease_seconds"])


def _two_leader_leases(timers: dict[str, Any]) -> float:
    return float(2 * timers["leader_lease_seconds"])


CASES = (
    Case("nothing", lambda site: None, "new"),
    Case("worker killed, idle", lambda site: kill(site.idle), "new", _two_leases),
    Case("worker killed, no checkpoint", lambda site: kill(site.renderer), "running", _two_leases, 0.0),
    Case("worker killed, checkpoints", lambda site: kill(site.renderer), "running", _two_leases),
    Case("worker killed and started again", _restart_worker, "running", _two_leases),
    Case("worker frozen", lambda site: kill(site.renderer, signal.SIGSTOP), "running", _two_leases),
    Case("worker drained (SIGTERM)", lambda site: kill(site.renderer, signal.SIGTERM), "running", lambda t: t["drain_seconds"], steps=0),
    Case("leader killed", lambda site: kill(leader(site.fleet, site.schedulers)), "new", _two_leader_leases),
    Case("leader frozen", lambda site: kill(leader(site.fleet, site.schedulers), signal.SIGSTOP), "new", _two_leader_leases),
    Case("Redis killed with its data", _lose_redis, "new", lambda t: 1.5 * t["poll_seconds"]),
    Case("Redis absent for 5 s", lambda site: site.aside(lambda: _lose_redis(site, 5.0)), "new", lambda t: 1.5 * t["poll_seconds"]),
    Case("PostgreSQL restarted", _restart_postgres, "new"),
    Case("S3 away for 10 s", lambda site: site.aside(lambda: _cut_store(site)), "new"),
)  # fmt: skip


def measure(case: Case, timers: dict[str, Any], services: Services) -> dict[str, Any]:
    """One fault in a fresh fleet."""
    with site_of(services, timers, case.checkpoints) as site:
        fleet, rig = site.fleet, site.fleet.rig
        fleet.submit(4, steps=1)
        fleet.finished(seconds=PATIENCE_SECONDS)
        before, went_from = 0, 0
        if case.hit == "running":
            # longer than a drain gives it
            (site.job,) = fleet.submit(steps=int(10 * timers["drain_seconds"]) + 100)
            until(
                lambda: (
                    rig.job(site.job).step >= 15
                    and (rig.job(site.job).checkpoint_step or not case.checkpoints)
                )
            )
            before = rig.job(site.job).attempt
        began = time.monotonic()
        case.act(site)
        while True:
            try:
                others = fleet.submit(4, steps=10)
                break
            except DBAPIError:
                time.sleep(0.05)
        hit = site.job or others[0]
        until(lambda: (job := rig.job(hit)).state != "queued" and job.started_at and job.attempt > before)
        again = time.monotonic() - began
        if case.hit == "running":
            row = rig.job(hit)
            went_from = row.checkpoint_step or 0
        fleet.finished_jobs("succeeded", seconds=PATIENCE_SECONDS)
        while probe(fleet) > AT_ONCE_SECONDS:
            pass
        well = time.monotonic() - began
        check_history(rig.sessions, rig.store, fleet.jobs)
        rows = [rig.job(job) for job in fleet.jobs]
        return {
            "fault": case.name, "again": round(again, 2), "bound": case.bound(timers) if case.bound else None,
            "well": round(well, 1), "from_step": went_from, "attempts": max(row.attempt for row in rows),
            "crashes": sum(row.crash_count for row in rows),
        }  # fmt: skip


def probe(fleet: Fleet) -> float:
    """Seconds until a fresh job is claimed."""
    began = time.monotonic()
    (job,) = fleet.submit(steps=1)
    until(lambda: fleet.rig.job(job).started_at)
    took = time.monotonic() - began
    until(lambda: fleet.rig.job(job).state == "succeeded")
    return took


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if true():
                return
        except DBAPIError:
            pass  # the database is away: that is being measured
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.02)


@contextmanager
def site_of(services: Services, timers: dict[str, Any], checkpoints: float) -> Iterator[Site]:
    """Two schedulers and two workers that are up."""
    with fleet_of(services, timers) as fleet:
        site = Site(fleet, services.redis, services.postgres, services.store)
        site.schedulers = [fleet.scheduler() for _ in range(2)]
        slow = Fault("step", act="slow")
        site.workers = {
            name: fleet.worker(name, slow, **_checkpoints(checkpoints)) for name in ("one", "two")
        }
        leader(fleet, site.schedulers)
        yield site


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the chaos tests' timers instead of production's"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="WORD", help="faults whose name has one of these"
    )
    asked = parser.parse_args()
    timers = QUICK if asked.quick else PRODUCTION
    cases = [case for case in CASES if not asked.only or any(word in case.name for word in asked.only)]
    found = []
    print(
        "| fault | runs again, s | bound, s | all well, s | went on from step | attempts, at most | crashes counted |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with running_services() as services:
        for case in cases:
            row = measure(case, timers, services)
            found.append(row)
            print(
                "| " + " | ".join(str("" if value is None else value) for value in row.values()) + " |",
                flush=True,
            )
        if not asked.only or "celery" in asked.only:
            seconds = redelivery(services.redis.url.rsplit("/", 1)[0] + "/5", VISIBILITY_SECONDS)
            print(
                f"plain Celery, acks_late, visibility_timeout {VISIBILITY_SECONDS:.0f} s: {seconds:.1f} s until redelivered"
            )
            found.append({"fault": "celery", "again": seconds, "bound": VISIBILITY_SECONDS})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
