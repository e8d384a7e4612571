"""The real scheduler feeds the batch that runs on a worker, as the worker's report says that it pays."""

from __future__ import annotations

from sqlalchemy import update

from farm.db.models import Job
from farm.jobs.reports import WorkerReport
from tests.integration.test_scheduler import Desk, desk, rounds
from tests.support.jobs import add_job, add_worker, job_row, start

__all__ = ["desk"]


def assigned(desk: Desk, jobs: list[str]) -> list[str]:
    return [job for job in jobs if job_row(desk.sessions, job).state == "assigned"]


def test_a_worker_gets_what_its_batch_holds_and_one_more(desk: Desk) -> None:
    report = WorkerReport(batch_sizes={"k": 4})
    worker = add_worker(desk.sessions, "gpu-1", report)
    first = add_job(desk.sessions)
    start(desk.sessions, first, worker)
    same = [add_job(desk.sessions) for _ in range(8)]
    other = [add_job(desk.sessions, batch_key="l") for _ in range(2)]
    desk.lead()
    # three more seats and one place of the window, the other of which is the batch's
    assert assigned(desk, same) == same[:4]
    assert assigned(desk, other) == []


def test_a_job_of_another_key_closes_the_batch(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1", WorkerReport(batch_sizes={"k": 4}))
    start(desk.sessions, add_job(desk.sessions), worker)
    urgent = add_job(desk.sessions, batch_key="l", priority=0)
    same = [add_job(desk.sessions) for _ in range(4)]
    scheduler = desk.lead()
    rounds(desk, scheduler, 3)
    assert assigned(desk, [urgent, *same]) == [urgent]


def test_a_batch_with_a_job_that_was_lost_before_takes_nobody(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1", WorkerReport(batch_sizes={"k": 4}))
    first = add_job(desk.sessions)
    start(desk.sessions, first, worker)
    with desk.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == first).values(crash_count=1))
    same = [add_job(desk.sessions) for _ in range(4)]
    desk.lead()
    assert assigned(desk, same) == same[:1]
