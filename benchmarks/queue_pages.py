"""A queue of a million jobs on PostgreSQL: submission, claim, a round of the scheduler, every page of the queue, and a batch
of 100,000 that is sent, looked at, cancelled and retried. `--rows N` takes another number.

Peer: the same question with an empty queue, in the same farm, before it is filled: what a million rows add.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.bulk_submit import of_batch, timed
from farm.clock import SystemClock
from farm.db.engine import make_engine, make_sessions
from farm.db.models import Job, Lease, Model, User, Worker
from farm.ids import new_id
from farm.jobs import attempts, forecast, guesses
from farm.jobs.reports import WorkerReport
from farm.jobs.states import State
from farm.scheduler.foresight import foresight
from farm.scheduler.plan import plan
from farm.scheduler.snapshot import take_snapshot
from tests.support.crowd import add_crowd
from tests.support.farm import RunningFarm, running_farm

MILLION = 1_000_000
BULK = 100_000
WORKERS = 50
VISITS = 30
ROUNDS = 10
#: what a page may take, 95 of 100 times, in milliseconds
GOAL, ROUND_GOAL = 200, 100
PAGES = (
    "/queue",
    "/queue?mine=1",
    "/queue/lanes?rows=200",
    "/batches",
    "/batches/{batch}",
    "/jobs/{middle}",
    "/api/v1/queue",
    "/api/v1/jobs",
    "/api/v1/jobs/{middle}",
    "/api/v1/batches/{batch}/jobs",
    "/api/v1/stats",
)
JOB = {"prompt": "a red circle <lora:ink:0.5>", "steps": 8, "priority": "bulk"}

#: milliseconds: median and 95 %
Times = dict[str, tuple[float, float]]


def main() -> None:
    rows = int(sys.argv[sys.argv.index("--rows") + 1]) if "--rows" in sys.argv else MILLION
    with tempfile.TemporaryDirectory() as name:
        # PostgreSQL never runs as root, and its own user has to reach its folder
        Path(name).chmod(0o755)
        with running_farm(Path(name) / "farm", "--postgres", workers=0) as farm:
            print(json.dumps(measure(farm, Path(name), rows)))


def measure(farm: RunningFarm, folder: Path, rows: int) -> dict[str, Any]:
    client = farm.client()
    batch = client.post("/batches", {"name": "first", "rows": [JOB | {"seed": 1}]})
    with opened(farm) as sessions:
        empty = everything(farm, sessions, batch["id"])
        filled = timed(lambda: fill(sessions, rows))
        print(f"{rows:,} jobs made inside the database in {filled:.0f} s")
        full = everything(farm, sessions, client.get("/batches")["items"][-1]["id"])
        show(empty, full)
        bulk = of_batch(farm, folder, BULK)
        print("100,000 rows: " + ", ".join(f"{key} {value:.4g}" for key, value in bulk.items()))
        after = everything(farm, sessions, client.get("/batches")["items"][0]["id"])
        print("after that cancel:")
        show(empty, after)
        retried = retry_all(farm, sessions)
        print(f"retry of {BULK:,} failed: {retried:.2f} s")
    return {
        "filled_s": filled,
        "empty": empty,
        "full": full,
        "after": after,
        "bulk": bulk,
        "retry_s": retried,
    }


def show(empty: Times, full: Times) -> None:
    print("| asked | empty, p50 | p95 | full, p50 | p95 | goal |\n| --- | --- | --- | --- | --- | --- |")
    for name, (median, most) in full.items():
        goal = ROUND_GOAL if "round" in name else GOAL
        before = empty[name]
        kept = "" if most <= goal else " missed"
        print(f"| {name} | {before[0]:.0f} | {before[1]:.0f} | {median:.0f} | {most:.0f} | {goal}{kept} |")


def everything(farm: RunningFarm, sessions: sessionmaker[Session], batch: str) -> Times:
    with sessions() as session:
        waits = select(Job.id).where(Job.state == State.QUEUED).order_by(Job.id)
        number = session.scalar(select(func.count()).select_from(Job).where(Job.state == State.QUEUED)) or 0
        middle = session.scalars(waits.offset(number // 2).limit(1)).one()
    found: Times = {}
    with httpx.Client(base_url=farm.url, timeout=60) as browser:
        browser.get("/login", params={"token": farm.api_key, "next": "/"})
        for page in PAGES:
            path = page.format(batch=batch, middle=middle)
            found[page] = spread(lambda path=path: browser.get(path).raise_for_status(), VISITS)  # type: ignore[misc]
    client = farm.client()
    found["submit"] = spread(lambda: client.submit(JOB), VISITS)
    with sessions() as session:
        rounds(session, found)
    return found


def rounds(session: Session, found: Times) -> None:
    """A round of 50 workers that are full, one that fills all of them, and the claims; all of it is rolled back."""
    now = SystemClock().now()
    names = [f"gpu-{number:02}" for number in range(WORKERS)]
    report = WorkerReport(seconds_per_step={f"key {n}": 0.2 for n in range(3)}).as_dict()
    workers = [
        {"id": new_id("worker", now), "name": name, "device": "cuda:0", "state": "up", "drain_requested": False,
         "report": report, "seq": 0, "started_at": now, "last_seen": now}
        for name in names
    ]  # fmt: skip
    session.execute(insert(Worker), workers)
    epoch = session.scalars(select(Lease.epoch).where(Lease.name == "scheduler")).one()
    given: list[tuple[str, int, str]] = []

    def one(window: int) -> None:
        snapshot = take_snapshot(session, now, window, ())
        made = plan(snapshot, now)
        for item in made.assignments:
            if attempts.assign(session, item.job_id, item.attempt, item.worker_id, now, epoch=epoch):
                given.append((item.job_id, item.attempt + 1, item.worker_id))
        bars, slowness = guesses.bars(session), guesses.slowness(session)
        foreseen = foresight(snapshot, made.outlooks, now, bars=bars, slowness=slowness)
        forecast.write(session, foreseen)
        attempts.note_first_estimates(session, {}, now)

    found["round, nothing free"] = spread(lambda: one(0), ROUNDS)
    found["round that gives 50 jobs"] = spread(lambda: one(1), 1)
    left = iter(given)
    if given:
        found["claim"] = spread(lambda: attempts.claim(session, *next(left), now), min(VISITS, len(given)))
    else:
        found["claim"] = (0.0, 0.0)
    session.rollback()


def retry_all(farm: RunningFarm, sessions: sessionmaker[Session]) -> float:
    """Seconds to queue the failed jobs of the newest batch again, all of which have failed."""
    client = farm.client()
    batch = client.get("/batches")["items"][0]["id"]
    with sessions.begin() as session:
        session.execute(
            Job.__table__.update()  # type: ignore[attr-defined]
            .where(Job.batch_id == batch)
            .values(state="failed", error_code="bad", error_message="it failed")
        )
    return timed(lambda: client.post(f"/batches/{batch}:retry-failed"))


def spread(act: Callable[[], Any], times: int) -> tuple[float, float]:
    """Median and 95 % in milliseconds; the first of several is not counted: it fills caches."""
    if times > 1:
        act()
    found = sorted(1000 * timed(act) for _ in range(max(1, times - 1)))
    return statistics.median(found), found[min(len(found) - 1, int(0.95 * len(found)))]


@contextmanager
def opened(farm: RunningFarm) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(farm.info["database_url"])
    yield make_sessions(engine)
    engine.dispose()


def fill(sessions: sessionmaker[Session], rows: int) -> None:
    with sessions() as session:
        model = session.scalars(select(Model.id)).first()
        owner = session.scalars(select(User.id)).first()
        assert model is not None
        assert owner is not None
        stranger = "user_stranger"
        session.add(
            User(
                id=stranger, name="stranger", role="artist", share_weight=1.0, created_at=SystemClock().now()
            )
        )
        session.commit()
        add_crowd(session, rows, model=model, owner=owner, stranger=stranger)


if __name__ == "__main__":
    main()
