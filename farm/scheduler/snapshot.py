"""SQL read into the plain data that `plan` decides on. Its cost is bounded by users and windows, not by the queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, or_, select
from sqlalchemy.orm import Session

from farm.db.models import ApiKey, Job, Model, User, Worker
from farm.db.models import Pause as PauseRow
from farm.jobs import losses
from farm.jobs.kinds import Kind
from farm.jobs.rates import Rates
from farm.jobs.states import HELD, PRIORITIES, Stage, State
from farm.models.stepwise import STEPWISE
from farm.scheduler.batches import Rider, batch_of
from farm.scheduler.facts import Snapshot
from farm.scheduler.group import Need, WaitingJob, front, gather
from farm.scheduler.held import Held
from farm.scheduler.known import Knowledge, Known
from farm.scheduler.lanes import WorkerView
from farm.scheduler.narrow import Hindrance, elsewhere, without_fetching
from farm.scheduler.pauses import Pause
from farm.scheduler.share import Ledger

#: stages in which a job that runs has the device
_BEGUN = frozenset({Stage.SAMPLING, Stage.EXTRACTING})


def take_snapshot(
    session: Session,
    now: datetime,
    window: int,
    standing_still: Collection[str],
    *,
    running_limit: int = 0,
    ledger: Ledger | None = None,
    store_away: datetime | None = None,
    knowledge: Knowledge | None = None,
) -> Snapshot:
    """The front of each user's queue and the workers that may take from it.

    `standing_still` are ids of workers whose heartbeat has stopped; `ledger` is what the last round left, and
    `knowledge` the reports that earlier rounds have read; `store_away` is since when the store does not answer.
    """
    beating = [
        worker
        for worker in session.execute(
            select(Worker.id, Worker.name, Worker.seq).where(
                Worker.state == "up", Worker.drain_requested.is_(False)
            )
        ).all()
        if worker.id not in standing_still
    ]
    known = (knowledge or Knowledge()).of(session, {worker.id: worker.seq for worker in beating})
    beating = [worker for worker in beating if worker.id in known]
    blocked = {worker.name: why for worker in beating if (why := known[worker.id].blocked)}
    suspect = losses.suspects(session)
    given = _given(session)
    views = [
        _view(worker.id, worker.name, known[worker.id], given[worker.id], window, worker.id in suspect)
        for worker in beating
        if worker.name not in blocked
    ]
    free = sum(view.free_slots + view.batch.seats for view in views)
    users = _waiting_users(session)
    keys = _limited_keys(session)
    # a key with a limit has a queue of its own: what waits for it must not hide what else the user asked for
    queues = [(owner, None) for owner in users] + [(keys[key].user_id, key) for key in keys]
    most = front(free, len(users))
    waiting = [job for owner, key in queues for job in _waiting(session, owner, key, now, most)]
    waiting = elsewhere(waiting, losses.lost_on(session, [job.id for job in waiting if job.crashes]), views)
    if store_away:
        waiting = without_fetching(waiting, views)
    limits = {row.id: row.running_limit for row in (*users.values(), *keys.values())}
    return Snapshot(
        groups=gather(waiting),
        store=Hindrance(words=f"store unreachable since {store_away:%H:%M} UTC") if store_away else None,
        nobody=Hindrance(words=_blocked(blocked)) if blocked else None,
        workers=tuple(views),
        weights={row.id: row.share_weight for row in users.values()},
        running=_running(session),
        running_limit=running_limit,
        limits={who: limit for who, limit in limits.items() if limit is not None},
        pauses=_pauses(session),
        held={
            view.id: _held(given[view.id], view.rates, now)
            for view in (views if _is_urgent(waiting, given) else ())
        },
        ledger=ledger or Ledger(),
    )


def _blocked(blocked: Mapping[str, str]) -> str:
    name, why = min(blocked.items())
    more = len(blocked) - 1
    return f"no worker that is up takes jobs: {name}: {why}" + (f"; and {more} more" if more else "")


def _waiting_users(session: Session) -> dict[str, Row[str, float, int | None]]:
    """Users who have jobs waiting, with weight and limit: one look into the index a user, however long the queue."""
    waits = select(Job.id).where(Job.owner_id == User.id, Job.state == State.QUEUED).exists()
    rows = session.execute(select(User.id, User.share_weight, User.running_limit).where(waits))
    return {row.id: row for row in rows.all()}


def _limited_keys(session: Session) -> dict[str, Row[str, str, int | None]]:
    """Keys with a limit whose jobs wait."""
    waits = select(Job.id).where(
        Job.owner_id == ApiKey.user_id, Job.key_id == ApiKey.id, Job.state == State.QUEUED
    )
    rows = session.execute(
        select(ApiKey.id, ApiKey.user_id, ApiKey.running_limit).where(
            ApiKey.running_limit.is_not(None), waits.exists()
        )
    )
    return {row.id: row for row in rows}


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
    """Jobs on workers by user, and by key where that has a limit."""
    rows = session.execute(
        select(Job.owner_id, Job.key_id, func.count())
        .where(Job.state.in_(sorted(HELD)))
        .group_by(Job.owner_id, Job.key_id)
    )
    found: dict[str, int] = {}
    for owner, key, count in rows:
        for who in filter(None, (owner, key)):
            found[who] = found.get(who, 0) + count
    return found


def _waiting(
    session: Session, owner_id: str, key_id: str | None, now: datetime, limit: int
) -> list[WaitingJob]:
    rows = session.execute(
        select(
            Job.id, Job.attempt, Job.owner_id, Job.priority, Job.created_at, Job.model_key, Job.networks,
            Job.batch_key, Job.steps, Job.count.label("pictures"), Job.crash_count, Job.worker_tags, Job.min_memory,
            Job.checkpoint_step, Model.bytes,
        )
        .join(Model, Model.id == Job.model_id)
        .where(
            Job.owner_id == owner_id,
            Job.key_id == key_id,
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
            need=_need(row, row.bytes),
            batch_key=row.batch_key,
            # it goes on from there
            steps=row.steps - min(row.steps, row.checkpoint_step or 0),
            count=row.pictures,
            crashes=row.crash_count,
            key_id=key_id or "",
        )
        for row in rows
    ]


def _need(job: Any, model_bytes: int) -> Need:
    adapters = {str(network["sha256"]): int(str(network["size"])) for network in job.networks}
    return Need(
        model_key=job.model_key,
        model_bytes=model_bytes,
        adapters=tuple(sorted(adapters.items())),
        memory_bytes=job.min_memory,
        tags=frozenset(job.worker_tags),
    )


def _given(session: Session) -> dict[str, list[Any]]:
    """Jobs of each worker in the order in which it was given them, with bytes and family of their models."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in session.execute(
        select(
            Job.id,
            Job.attempt,
            Job.owner_id,
            Job.priority,
            Job.worker_id,
            Job.state,
            Job.stage,
            Job.step,
            Job.steps,
            Job.count.label("pictures"),
            Job.kind,
            Job.model_key,
            Job.networks,
            Job.min_memory,
            Job.worker_tags,
            Job.batch_key,
            Job.crash_count,
            Job.checkpoint_step,
            Job.preempt_attempt,
            Job.preempted_at,
            Job.assigned_at,
            Model.bytes.label("model_bytes"),
            Model.family,
        )
        .join(Model, Model.id == Job.model_id)
        .where(Job.state.in_(sorted(HELD)))
        .order_by(Job.assigned_at, Job.id)
    ):
        found[row.worker_id].append(row)
    return found  # fmt: skip


def _is_urgent(waiting: Collection[WaitingJob], given: Mapping[str, list[Any]]) -> bool:
    """Whether there is a job for which others might give way."""
    interactive = PRIORITIES["interactive"]
    return any(job.priority == interactive for job in waiting) or any(
        row.priority == interactive for rows in given.values() for row in rows
    )


def _held(rows: Collection[Any], rates: Rates, now: datetime) -> tuple[Held, ...]:
    return tuple(
        Held(
            id=job.id,
            attempt=job.attempt,
            owner_id=job.owner_id,
            priority=job.priority,
            need=_need(job, job.model_bytes),
            left=_left(job, rates),
            begun=job.state == State.RUNNING and (job.step > 0 or job.stage in _BEGUN),
            saves=job.kind == Kind.RENDER and job.family in STEPWISE,
            asked=job.preempt_attempt == job.attempt,
            rested=None if job.preempted_at is None else (now - job.preempted_at).total_seconds(),
        )
        for job in rows
        # what is published does not need the device any more
        if job.stage != Stage.UPLOADING
    )


def _left(job: Any, rates: Rates) -> float:
    """Device seconds of the steps that are left, also of one that is going on from a checkpoint."""
    done = max(job.step, job.checkpoint_step or 0)
    return rates.job_seconds(job.batch_key, max(0, job.steps - done), job.pictures)


def _view(worker_id: str, name: str, known: Known, jobs: list[Any], window: int, suspect: bool) -> WorkerView:
    """`jobs`: what it has, in the order in which it was given them."""
    coming = {network["sha256"] for job in jobs for network in job.networks}
    # a suspect worker gets one job at a time
    window, sizes = (1, {}) if suspect else (window, known.batch_sizes)
    riders = [
        Rider(key=(job.model_key, job.batch_key), pictures=job.pictures, lost_before=job.crash_count > 0)
        for job in jobs
    ]
    batch = batch_of(riders, sizes)
    return WorkerView(
        id=worker_id,
        name=name,
        # the batch takes one place, whoever is in it
        free_slots=max(0, window - len(jobs) + max(0, batch.aboard - 1)),
        busy_seconds=sum(_left(job, known.rates) for job in jobs),
        model_key=jobs[-1].model_key if jobs else known.model_key,
        adapters=known.adapters | coming,
        disk=known.disk,
        rates=known.rates,
        memory_bytes=known.memory_bytes,
        tags=known.tags,
        batch=batch,
        batch_sizes=sizes,
    )
