"""Workers: they register, beat, drain and leave. Whether one is dead is decided by its counter standing still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import String, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from farm.db.models import Job, Worker
from farm.db.rows import changed, table_of
from farm.errors import NotFound, Transient
from farm.ids import WorkerId, new_id
from farm.jobs import attempts, losses
from farm.jobs.reports import WorkerReport
from farm.jobs.states import HELD, State

_NO_SYNC = {"synchronize_session": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrders:
    """The answer to a heartbeat."""

    #: finish or hand back what is held, take nothing new
    drain: bool
    #: this worker was given up; it has to register again before it may take jobs
    gone: bool
    #: how often it was asked to load its models afresh
    reloads: int = 0
    #: the waiting job whose files it should have early: what it is expected to be given next, or an adapter in demand
    next_job: str | None = None


def register(
    session: Session, name: str, device: str, report: WorkerReport, now: datetime, *, crash_limit: int = 3
) -> WorkerId:
    """Join the fleet. A name seen before keeps its id; what it was running is lost with its former process.

    Raises:
        Transient: another process registers the same name at this moment.
    """
    values: dict[str, Any] = {
        "device": device,
        "state": "up",
        "drain_requested": False,
        "report": report.as_dict(),
        "started_at": now,
        "last_seen": now,
    }
    known = session.execute(select(Worker.id).where(Worker.name == name)).scalar_one_or_none()
    if known is None:
        worker_id = WorkerId(new_id("worker", now))
        try:
            with session.begin_nested():
                session.execute(insert(Worker).values(id=worker_id, name=name, seq=0, **values))
        except IntegrityError:
            raise Transient(f"another process registers as {name!r} at this moment", "try again") from None
        return worker_id
    session.execute(
        update(Worker).where(Worker.id == known).values(seq=Worker.seq + 1, **values),
        execution_options=_NO_SYNC,
    )
    ran = session.execute(
        select(Job.id, Job.attempt, Job.hb_seq).where(Job.worker_id == known, Job.state == State.RUNNING)
    ).all()
    outage = bool(ran) and losses.in_outage(session, {known: [row.id for row in ran]}, now)
    for row in ran:
        attempts.lose(
            session, row.id, row.attempt, row.hb_seq, crash_limit=crash_limit, now=now, outage=outage
        )
    if outage:
        losses.pardon(session, crash_limit, now)
    return WorkerId(known)


def beat(session: Session, worker_id: str, report: WorkerReport, now: datetime) -> WorkerOrders:
    """Count on, keep the report, hear the orders."""
    row = session.execute(
        update(Worker)
        .where(Worker.id == worker_id, Worker.state != "gone")
        .values(seq=Worker.seq + 1, report=report.as_dict(), last_seen=now)
        .returning(Worker.drain_requested, Worker.reloads_requested, Worker.next_job),
        execution_options=_NO_SYNC,
    ).one_or_none()
    if row is None:
        return WorkerOrders(drain=False, gone=True)
    return WorkerOrders(
        drain=row.drain_requested, gone=False, reloads=row.reloads_requested, next_job=row.next_job
    )


def note_blocked(session: Session, worker_id: str, why: str) -> None:
    """Let a worker's report say that it takes no jobs, until its next heartbeat tells it itself."""
    report = session.execute(
        select(Worker.report).where(Worker.id == worker_id).with_for_update()
    ).scalar_one_or_none()
    if report is not None:
        session.execute(
            update(Worker).where(Worker.id == worker_id).values(report={**report, "blocked": why}),
            execution_options=_NO_SYNC,
        )


def note_next(session: Session, nexts: Mapping[str, str]) -> None:
    """Keep which waiting job's files each worker (by id) should have early; rows that say so already stay."""
    stand = session.execute(select(Worker.id, Worker.next_job).where(Worker.state != "gone")).all()
    rows = [
        {"worker": row.id, "job": nexts.get(row.id)} for row in stand if row.next_job != nexts.get(row.id)
    ]
    if rows:
        given = table_of(session, rows, {"worker": String, "job": String})
        session.execute(
            update(Worker).where(Worker.id == given.c.worker).values(next_job=given.c.job),
            execution_options=_NO_SYNC,
        )


def drain(session: Session, worker_id: str) -> None:
    """Ask a worker to finish what it has and take nothing new.

    Raises:
        NotFound: no such worker.
    """
    _order(session, worker_id, drain_requested=True, state="draining")


def resume(session: Session, worker_id: str) -> None:
    """Let a drained worker take jobs again.

    Raises:
        NotFound: no such worker.
    """
    _order(session, worker_id, drain_requested=False, state="up")


def reload(session: Session, worker_id: str) -> None:
    """Ask a worker to drop its models and adapters after its present job, so that the next one loads them afresh.

    Raises:
        NotFound: no such worker.
    """
    _order(session, worker_id, reloads_requested=Worker.reloads_requested + 1)


def _order(session: Session, worker_id: str, **values: Any) -> None:
    done = session.execute(
        update(Worker).where(Worker.id == worker_id, Worker.state != "gone").values(**values),
        execution_options=_NO_SYNC,
    )
    if changed(done) != 1:
        raise NotFound("no such worker is up", "GET /api/v1/workers lists all", code="no_worker")


def leave(session: Session, worker_id: str, now: datetime) -> None:
    """Leave in good order: whatever this worker still holds is queued again."""
    held = session.execute(
        select(Job.id, Job.attempt).where(Job.worker_id == worker_id, Job.state.in_(sorted(HELD)))
    ).all()
    for row in held:
        attempts.hand_back(session, row.id, row.attempt, now)
    session.execute(
        update(Worker).where(Worker.id == worker_id).values(state="gone", last_seen=now, seq=Worker.seq + 1),
        execution_options=_NO_SYNC,
    )


def mark_gone(session: Session, worker_id: str, seq_seen: int, now: datetime) -> bool:
    """Give up a worker whose counter stood still at `seq_seen`; False when it has moved after all. Its jobs end by
    their own leases."""
    done = session.execute(
        update(Worker)
        .where(Worker.id == worker_id, Worker.seq == seq_seen, Worker.state != "gone")
        .values(state="gone"),
        execution_options=_NO_SYNC,
    )
    return changed(done) == 1
