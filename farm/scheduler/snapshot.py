"""SQL read into the plain data that `plan` decides on. Its cost is bounded by users and windows, not by the queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from farm.db.models import Job, Model, User, Worker
from farm.db.models import Pause as PauseRow
from farm.jobs.reports import WorkerReport
from farm.jobs.states import HELD, State
from farm.scheduler.batches import Given, batch_of
from farm.scheduler.group import Need, WaitingJob, front, gather
from farm.scheduler.lanes import WorkerView
from farm.scheduler.pauses import Pause
from farm.scheduler.plan import Snapshot
from farm.scheduler.score import Rates
from farm.scheduler.share import Ledger


def take_snapshot(
    session: Session,
    now: datetime,
    window: int,
    standing_still: Collection[str],
    *,
    running_limit: int = 0,
    ledger: Ledger | None = None,
) -> Snapshot:
    """The front of each user's queue and the workers that may take from it.

    `standing_still` are ids of workers whose heartbeat has stopped; `ledger` is what the last round left.
    """
    workers = [
        worker
        for worker in session.scalars(
            select(Worker).where(Worker.state == "up", Worker.drain_requested.is_(False))
        )
        if worker.id not in standing_still
    ]
    views = _worker_views(session, workers, window)
    free = sum(view.free_slots + view.batch.seats for view in views)
    weights = _waiting_users(session)
    waiting = [job for owner in weights for job in _waiting(session, owner, now, front(free, len(weights)))]
    return Snapshot(
        groups=gather(waiting),
        workers=tuple(views),
        weights=weights,
        running=_running(session),
        running_limit=running_limit,
        pauses=_pauses(session),
        ledger=ledger or Ledger(),
    )


def _waiting_users(session: Session) -> dict[str, float]:
    """Weights of the users who have jobs waiting: one look into the index a user, however long the queue."""
    waits = select(Job.id).where(Job.owner_id == User.id, Job.state == State.QUEUED).exists()
    return {
        row.id: row.share_weight for row in session.execute(select(User.id, User.share_weight).where(waits))
    }


def _pauses(session: Session) -> tuple[Pause, ...]:
    """Pauses, with what plans go by: a model's content instead of its id."""
    rows = session.execute(
        select(
            PauseRow.kind, PauseRow.subject, Model.sha256, Model.name.label("model"), User.name.label("user")
        )
        .outerjoin(Model, (PauseRow.kind == "model") & (Model.id == PauseRow.subject))
        .outerjoin(User, (PauseRow.kind == "user") & (User.id == PauseRow.subject))
    )
    return tuple(
        Pause(kind=row.kind, subject=row.sha256 or row.subject, name=row.model or row.user or "")
        for row in rows
    )


def _running(session: Session) -> dict[str, int]:
    rows = session.execute(
        select(Job.owner_id, func.count()).where(Job.state.in_(sorted(HELD))).group_by(Job.owner_id)
    )
    return dict(rows.tuples().all())


def _waiting(session: Session, owner_id: str, now: datetime, limit: int) -> list[WaitingJob]:
    rows = session.execute(
        select(
            Job.id, Job.attempt, Job.owner_id, Job.priority, Job.created_at, Job.model_key, Job.networks,
            Job.batch_key, Job.steps, Job.count.label("pictures"), Model.bytes,
        )
        .join(Model, Model.id == Job.model_id)
        .where(
            Job.owner_id == owner_id,
            Job.state == State.QUEUED,
            Job.cancel_requested_at.is_(None),
            or_(Job.not_before.is_(None), Job.not_before <= now),
        )
        .order_by(Job.priority, Job.id)
        .limit(limit)
    )  # fmt: skip
    return [
        WaitingJob(
            id=row.id,
            attempt=row.attempt,
            owner_id=row.owner_id,
            priority=row.priority,
            created_at=row.created_at,
            need=_need(row.model_key, row.bytes, row.networks),
            batch_key=row.batch_key,
            steps=row.steps,
            count=row.pictures,
        )
        for row in rows
    ]


def _need(model_key: str, model_bytes: int, networks: list[dict[str, object]]) -> Need:
    adapters = {str(network["sha256"]): int(str(network["size"])) for network in networks}
    return Need(model_key=model_key, model_bytes=model_bytes, adapters=tuple(sorted(adapters.items())))


def _worker_views(session: Session, workers: list[Worker], window: int) -> list[WorkerView]:
    open_jobs: dict[str, list[Job]] = defaultdict(list)
    ids = [worker.id for worker in workers]
    for job in session.scalars(
        select(Job).where(Job.worker_id.in_(ids), Job.state.in_(sorted(HELD))).order_by(Job.id)
    ):
        open_jobs[str(job.worker_id)].append(job)
    return [_view(worker, open_jobs[worker.id], window) for worker in workers]


def _view(worker: Worker, jobs: list[Job], window: int) -> WorkerView:
    report = WorkerReport.from_dict(worker.report)
    rates = Rates(seconds_per_step=report.seconds_per_step, load_seconds=report.load_seconds)
    coming = {network["sha256"] for job in jobs for network in job.networks}
    jobs = sorted(jobs, key=lambda job: (job.assigned_at.timestamp() if job.assigned_at else 0.0, job.id))
    latest = jobs[-1] if jobs else None
    given = [
        Given(key=(job.model_key, job.batch_key), pictures=job.count, lost_before=job.crash_count > 0)
        for job in jobs
    ]
    batch = batch_of(given, report.batch_sizes)
    return WorkerView(
        id=worker.id,
        name=worker.name,
        # the batch takes one place, whoever is in it
        free_slots=max(0, window - len(jobs) + max(0, batch.aboard - 1)),
        busy_seconds=sum(
            rates.job_seconds(job.batch_key, max(0, job.steps - job.step), job.count) for job in jobs
        ),
        model_key=latest.model_key if latest else (report.models[-1] if report.models else None),
        adapters=frozenset(report.adapters) | coming,
        disk=frozenset(report.disk),
        rates=rates,
        memory_bytes=report.memory_total,
        batch=batch,
        batch_sizes=report.batch_sizes,
    )
