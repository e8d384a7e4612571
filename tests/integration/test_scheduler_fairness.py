"""One user's queue, however long, changes nothing for another one: rounds of the real scheduler, counted and not timed."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import Integer, String, cast, func, insert, literal, select

from farm.db.engine import make_engine, make_sessions
from farm.db.models import Job
from farm.jobs import attempts
from tests.integration.test_scheduler import Desk, TurnedClock, rounds
from tests.support.jobs import OWNER, STRANGER, add_job, add_worker, seed

ROUNDS = 36
WORKERS = 4
#: rounds that a job takes
WORK = 2


def add_queue(desk: Desk, owner: str, jobs: int) -> None:
    """So many copies of one job, made inside the database."""
    first = add_job(desk.sessions, owner, created_at=desk.clock.now())
    columns = Job.__table__.c
    numbers = select(literal(1, Integer).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < jobs - 1))
    values = [
        (first + "_" + func.substr("00000000" + cast(numbers.c.n, String), -8))
        if column.name == "id"
        else column
        for column in columns
    ]
    copies = select(*values).select_from(Job.__table__.join(numbers, columns.id == first))
    with desk.sessions.begin() as session:
        session.execute(insert(Job).from_select([column.name for column in columns], copies))


def waits(folder: Path, template: Path, jobs: int) -> list[int]:
    """Rounds that each job of a user waited who submits one every other round, beside another's `jobs`."""
    folder.mkdir()
    shutil.copy(template, folder / "farm.db")
    engine = make_engine(f"sqlite:///{folder / 'farm.db'}")
    desk = Desk(make_sessions(engine), TurnedClock())
    seed(desk.sessions)
    workers = [add_worker(desk.sessions, f"gpu-{n}") for n in range(WORKERS)]
    add_queue(desk, OWNER, jobs)
    scheduler = desk.lead()
    began: dict[str, int] = {}
    submitted: dict[str, int] = {}
    found: dict[str, int] = {}
    for now in range(ROUNDS):
        if now % 2 == 0:
            submitted[add_job(desk.sessions, STRANGER, created_at=desk.clock.now())] = now
        with desk.sessions.begin() as session:
            for worker in workers:
                for job, attempt in attempts.assigned_to(session, worker):
                    if attempts.claim(session, job, attempt, worker, desk.clock.now()):
                        began[job] = now
                        if job in submitted:
                            found[job] = now - submitted[job]
                for job, start in list(began.items()):
                    row = session.get(Job, job)
                    if row is not None and row.worker_id == worker and now - start >= WORK:
                        attempts.succeed(session, job, row.attempt, [], {}, desk.clock.now())
                        del began[job]
        rounds(desk, scheduler, 1)
    # the other one's queue never ran dry
    with desk.sessions() as session:
        left = select(func.count()).where(Job.owner_id == OWNER, Job.state == "queued")
        assert session.scalar(left) > 0
    engine.dispose()
    return sorted(found.values())


def test_g16_a_hundred_thousand_jobs_of_one_user_change_no_wait_of_another(
    tmp_path: Path, sqlite_template: Path
) -> None:
    beside_few = waits(tmp_path / "few", sqlite_template, ROUNDS * WORKERS)
    beside_many = waits(tmp_path / "many", sqlite_template, 100_000)
    assert len(beside_many) >= ROUNDS // 2 - 3
    p95 = [found[int(0.95 * len(found))] for found in (beside_few, beside_many)]
    assert p95[1] <= 1.1 * p95[0], (beside_few, beside_many)
