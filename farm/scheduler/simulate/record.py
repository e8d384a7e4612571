"""A farm's own history as a trace: what was asked, by whom (numbered, not named), when; which workers were lost. No prompts."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from farm.db.models import Attempt, Job, Model, Worker
from farm.errors import BadRequest
from farm.jobs.kinds import Kind
from farm.jobs.reports import WorkerReport
from farm.jobs.states import PRIORITY_NAMES
from farm.scheduler.simulate.recorded import failure_line, farm_line, job_line, model_line
from farm.scheduler.simulate.run import LEASE_SECONDS

#: rows that are in memory at a time
_ROWS = 2000
#: letters of a hash that tell adapters apart
_LETTERS = 16


def record(session: Session, now: datetime) -> Iterator[str]:
    """Lines of a trace, streamed: the fleet, its models and rates, its failures, and all jobs by submission.

    Raises:
        BadRequest: the farm has had no job yet.
    """
    begin = session.execute(select(func.min(Job.created_at)).where(Job.kind == Kind.RENDER)).scalar_one()
    if begin is None:
        raise BadRequest("this farm has no jobs yet, so there is nothing to record", code="no_jobs")
    workers = {
        row: number for number, row in enumerate(session.scalars(select(Worker.id).order_by(Worker.id)))
    }
    yield farm_line(len(workers))
    yield from _models(session)
    yield from _failures(session, workers, begin, now)
    yield from _jobs(session, begin)


def _models(session: Session) -> Iterator[str]:
    """A line for each (model, batch key) with rates as the workers measured them, in the mean."""
    steps: dict[str, list[float]] = defaultdict(list)
    loads: dict[str, list[float]] = defaultdict(list)
    for row in session.scalars(select(Worker.report).order_by(Worker.id)):
        report = WorkerReport.from_dict(row)
        for key, seconds in report.seconds_per_step.items():
            steps[key].append(seconds)
        for key, seconds in report.load_seconds.items():
            loads[key].append(seconds)
    used = (
        select(Model.name, Job.model_key, Job.batch_key, Model.bytes)
        .join(Model, Model.id == Job.model_id)
        .where(Job.kind == Kind.RENDER)
        .distinct()
        .order_by(Model.name, Job.batch_key)
    )
    for name, model_key, batch_key, size in session.execute(used):
        yield model_line(
            name,
            batch_key,
            size=size,
            load_seconds=_mean(loads[model_key]),
            step_seconds=_mean(steps[batch_key]),
        )


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def _failures(session: Session, workers: Mapping[str, int], begin: datetime, now: datetime) -> Iterator[str]:
    """A worker is taken to have failed one lease before its job was given up, and to be back when it next began
    a job or registered."""
    starts: dict[str, list[datetime]] = {
        row.id: [row.started_at] for row in session.execute(select(Worker.id, Worker.started_at))
    }
    lost = select(Attempt.worker_id).where(Attempt.outcome == "lost").distinct()
    for attempt in session.execute(
        select(Attempt.worker_id, Attempt.started_at)
        .where(Attempt.worker_id.in_(lost))
        .execution_options(yield_per=_ROWS)
    ):
        starts.setdefault(attempt.worker_id, []).append(attempt.started_at)
    for times in starts.values():
        times.sort()
    found: list[tuple[datetime, str, datetime]] = []
    back = defaultdict[str, datetime](lambda: begin)
    for row in session.execute(
        select(Attempt.worker_id, Attempt.started_at, Attempt.ended_at)
        .where(Attempt.outcome == "lost", Attempt.ended_at.is_not(None))
        .order_by(Attempt.worker_id, Attempt.ended_at)
    ):
        at = max(row.started_at, row.ended_at - timedelta(seconds=LEASE_SECONDS))
        # jobs that were lost with the same process
        if row.worker_id not in workers or at < back[row.worker_id]:
            continue
        times = starts[row.worker_id]
        place = bisect_right(times, at)
        back[row.worker_id] = times[place] if place < len(times) else max(now, row.ended_at)
        found.append((at, row.worker_id, back[row.worker_id]))
    for at, worker_id, until in sorted(found):
        yield failure_line((at - begin).total_seconds(), workers[worker_id], (until - at).total_seconds())


def _jobs(session: Session, begin: datetime) -> Iterator[str]:
    owners: dict[str, str] = {}
    rows = session.execute(
        select(
            Job.created_at, Job.owner_id, Job.priority, Job.networks, Job.batch_key, Job.steps,
            Job.count.label("pictures"), Model.name,
        )
        .join(Model, Model.id == Job.model_id)
        .where(Job.kind == Kind.RENDER)
        .order_by(Job.id)
        .execution_options(yield_per=_ROWS)
    )  # fmt: skip
    for row in rows:
        networks = {str(network["sha256"])[:_LETTERS]: int(network["size"]) for network in row.networks}
        yield job_line(
            (row.created_at - begin).total_seconds(),
            row.name,
            row.batch_key,
            sorted(networks.items()),
            owners.setdefault(row.owner_id, f"user-{len(owners) + 1}"),
            row.steps * row.pictures,
            PRIORITY_NAMES[row.priority],
        )
