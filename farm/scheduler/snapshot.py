"""SQL read into the plain data that `plan` decides on. Its cost is bounded by the window, not by the queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from farm.db.models import Job, Model, Worker
from farm.jobs.reports import WorkerReport
from farm.scheduler.plan import Need, Snapshot, WaitingJob, WorkerView
from farm.scheduler.score import Rates

#: Jobs read beyond what the workers' windows can take, so that the outlook reaches into the queue.
LOOK_AHEAD = 100


def take_snapshot(session: Session, now: datetime, window: int, standing_still: Collection[str]) -> Snapshot:
    """The front of the queue and the workers that may take from it.

    `standing_still` are ids of workers whose heartbeat has stopped.
    """
    workers = [
        worker
        for worker in session.scalars(
            select(Worker).where(Worker.state == "up", Worker.drain_requested.is_(False))
        )
        if worker.id not in standing_still
    ]
    views = _worker_views(session, workers, window)
    free = sum(view.free_slots for view in views)
    return Snapshot(waiting=_waiting(session, now, free + LOOK_AHEAD), workers=tuple(views))


def _waiting(session: Session, now: datetime, limit: int) -> tuple[WaitingJob, ...]:
    rows = session.execute(
        select(
            Job.id, Job.attempt, Job.owner_id, Job.priority, Job.created_at, Job.model_key, Job.networks,
            Job.batch_key, Job.steps, Job.spec, Model.bytes,
        )
        .join(Model, Model.id == Job.model_id)
        .where(
            Job.state == "queued",
            Job.cancel_requested_at.is_(None),
            or_(Job.not_before.is_(None), Job.not_before <= now),
        )
        .order_by(Job.priority, Job.id)
        .limit(limit)
    )  # fmt: skip
    return tuple(
        WaitingJob(
            id=row.id,
            attempt=row.attempt,
            owner_id=row.owner_id,
            priority=row.priority,
            created_at=row.created_at,
            need=_need(row.model_key, row.bytes, row.networks),
            batch_key=row.batch_key,
            steps=row.steps,
            count=row.spec.get("count", 1),
        )
        for row in rows
    )


def _need(model_key: str, model_bytes: int, networks: list[dict[str, object]]) -> Need:
    adapters = {str(network["sha256"]): int(str(network["size"])) for network in networks}
    return Need(model_key=model_key, model_bytes=model_bytes, adapters=tuple(sorted(adapters.items())))


def _worker_views(session: Session, workers: list[Worker], window: int) -> list[WorkerView]:
    open_jobs: dict[str, list[Job]] = defaultdict(list)
    ids = [worker.id for worker in workers]
    for job in session.scalars(
        select(Job).where(Job.worker_id.in_(ids), Job.state.in_(("assigned", "running"))).order_by(Job.id)
    ):
        open_jobs[str(job.worker_id)].append(job)
    return [_view(worker, open_jobs[worker.id], window) for worker in workers]


def _view(worker: Worker, jobs: list[Job], window: int) -> WorkerView:
    report = WorkerReport.from_dict(worker.report)
    rates = Rates(seconds_per_step=report.seconds_per_step, load_seconds=report.load_seconds)
    given = {network["sha256"] for job in jobs for network in job.networks}
    latest = max(jobs, key=lambda job: (job.assigned_at is not None, job.assigned_at), default=None)
    return WorkerView(
        id=worker.id,
        name=worker.name,
        free_slots=max(0, window - len(jobs)),
        busy_seconds=sum(
            rates.job_seconds(job.batch_key, max(0, job.steps - job.step), job.spec.get("count", 1))
            for job in jobs
        ),
        model_key=latest.model_key if latest else (report.models[-1] if report.models else None),
        adapters=frozenset(report.adapters) | given,
        disk=frozenset(report.disk),
        rates=rates,
    )
