"""What owners do to their jobs: cancel, retry, reorder. Each is one guarded statement."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, case, insert, literal, select, update
from sqlalchemy.orm import Session

from farm.db.models import Batch, Job, JobEvent, Outbox, User
from farm.db.rows import changed
from farm.errors import BadRequest, Conflict, NotFound
from farm.jobs.moves import RELEASED, move, webhook_row
from farm.jobs.states import OPEN, PRIORITIES, State

_NO_SYNC = {"synchronize_session": False}
#: webhooks that are written at a time
_HOOKS = 1000
_RUNS = Job.state == State.RUNNING
#: a running job is marked and its worker ends it; what has not begun ends at once, its attempt is fenced off
_CANCELLED = {
    "state": case((_RUNS, State.RUNNING), else_=State.CANCELLED),
    "worker_id": case((_RUNS, Job.worker_id), else_=None),
    "wait_reason": None,
}
_RETRIED = {
    **RELEASED,
    "state": State.QUEUED,
    "crash_count": 0,
    "retry_count": 0,
    "error_code": None,
    "error_message": None,
    "cancel_requested_at": None,
    "not_before": None,
    "finished_at": None,
    # what failed in the middle is not gone on from
    "checkpoint_key": None,
    "checkpoint_sha256": None,
    "checkpoint_step": None,
}


def cancel(session: Session, owner_id: str, job_id: str, now: datetime) -> State:
    """Cancel a job; a running one ends within a step and a heartbeat. Returns its state now; a second call changes nothing.

    Raises:
        NotFound: no such job of this owner.
        Conflict: it has succeeded or failed already.
    """
    guard = (Job.id == job_id, Job.owner_id == owner_id, Job.cancel_requested_at.is_(None))
    # held still: between the two statements it could go from running back to the queue, and be seen by neither
    session.execute(select(Job.id).where(*guard).with_for_update())
    ended = move(
        session,
        "cancel",
        (*guard, Job.state.in_([State.QUEUED, State.ASSIGNED])),
        {
            "state": State.CANCELLED,
            "worker_id": None,
            "wait_reason": None,
            "cancel_requested_at": now,
            "finished_at": now,
        },
        now,
    )
    if ended is not None:
        return State.CANCELLED
    marked = move(session, "request_cancel", (*guard, _RUNS), {"cancel_requested_at": now}, now)
    if marked is not None:
        return State.RUNNING
    state = _state(session, owner_id, job_id)
    if state in (State.SUCCEEDED, State.FAILED):
        raise Conflict(f"the job has {state} already", "there is nothing left to cancel", code="job_ended")
    return state


def cancel_batch(session: Session, owner_id: str, batch_id: str, now: datetime) -> int:
    """Cancel what is left of a batch, in one statement; returns how many jobs that were.

    Raises:
        NotFound: no such batch of this owner.
    """
    _check_batch(session, owner_id, batch_id)
    mine = (Job.batch_id == batch_id, Job.owner_id == owner_id)
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id, Batch.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now),
        execution_options=_NO_SYNC,
    )
    done = session.execute(
        update(Job)
        .where(*mine, Job.state.in_(sorted(OPEN)), Job.cancel_requested_at.is_(None))
        .values(**_CANCELLED, cancel_requested_at=now, finished_at=case((_RUNS, None), else_=now)),
        execution_options=_NO_SYNC,
    )
    count = changed(done)
    if count:
        _note_cancelled(session, mine, now)
    return count


def _note_cancelled(session: Session, mine: tuple[ColumnElement[bool], ...], now: datetime) -> None:
    """Events and webhooks of all jobs that this transaction marked at `now`, without reading them one by one."""
    marked = (*mine, Job.cancel_requested_at == now)
    session.execute(
        insert(JobEvent).from_select(
            ["job_id", "attempt", "transition", "state", "at"],
            select(
                Job.id,
                Job.attempt,
                case((_RUNS, "request_cancel"), else_="cancel"),
                Job.state,
                literal(now, JobEvent.at.type),
            ).where(*marked, Job.state.in_([State.RUNNING, State.CANCELLED])),
        )
    )
    hooked = session.execute(
        select(Job.id, Job.batch_id, Job.webhook).where(
            *marked, Job.state == State.CANCELLED, Job.webhook.is_not(None)
        ),
        execution_options={"yield_per": _HOOKS},
    )
    for part in hooked.partitions():
        session.execute(
            insert(Outbox),
            [webhook_row(row.id, row.batch_id, row.webhook, State.CANCELLED, now) for row in part],
        )


def retry(session: Session, owner_id: str, job_id: str, now: datetime) -> State:
    """Queue a failed or cancelled job again. A quarantined one only for an operator: it has cost workers before.

    Raises:
        NotFound: no such job of this owner.
        Conflict: it has not ended, has succeeded, or is quarantined.
    """
    row = session.execute(
        select(Job.state, Job.attempt, Job.error_code, User.role)
        .join(User, User.id == Job.owner_id)
        .where(Job.id == job_id, Job.owner_id == owner_id)
    ).one_or_none()
    if row is None:
        raise _no_job()
    if row.state not in (State.FAILED, State.CANCELLED):
        raise Conflict(
            f"the job is {row.state}", "only failed and cancelled jobs can be retried", code="job_not_ended"
        )
    if row.error_code == "quarantined" and row.role == "artist":
        raise Conflict(
            "the job is quarantined: it has brought down its workers",
            "ask an operator to retry it",
            code="quarantined",
        )
    # whose it is was asked above, and never changes
    guard = (Job.id == job_id, Job.state == row.state, Job.attempt == row.attempt)
    if move(session, "retry", guard, _RETRIED, now) is None:
        raise Conflict("the job has changed at this moment", "look again", code="job_changed")
    return State.QUEUED


def retry_failed(session: Session, owner_id: str, batch_id: str, now: datetime) -> int:
    """Queue the failed jobs of a batch again, but not the quarantined ones; returns how many.

    Raises:
        NotFound: no such batch of this owner.
    """
    _check_batch(session, owner_id, batch_id)
    failed = (
        Job.batch_id == batch_id,
        Job.owner_id == owner_id,
        Job.state == State.FAILED,
        Job.error_code != "quarantined",
    )
    # the events first: afterwards the rows do not show any more which they were
    session.execute(
        insert(JobEvent).from_select(
            ["job_id", "attempt", "transition", "state", "at"],
            select(
                Job.id,
                Job.attempt,
                literal("retry"),
                literal(State.QUEUED.value),
                literal(now, JobEvent.at.type),
            )
            .where(*failed)
            .with_for_update(),
        )
    )
    return changed(session.execute(update(Job).where(*failed).values(**_RETRIED), execution_options=_NO_SYNC))


def set_priority(session: Session, owner_id: str, job_id: str, priority: str, now: datetime) -> None:
    """Move a waiting job to `interactive`, `normal` or `bulk`.

    Raises:
        BadRequest: no such priority.
        NotFound: no such job of this owner.
        Conflict: it does not wait any more.
    """
    if priority not in PRIORITIES:
        raise BadRequest(
            f"unknown priority {priority!r}", f"one of {', '.join(PRIORITIES)}", code="unknown_priority"
        )
    done = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.owner_id == owner_id, Job.state == State.QUEUED)
        .values(priority=PRIORITIES[priority]),
        execution_options=_NO_SYNC,
    )
    if changed(done) != 1:
        state = _state(session, owner_id, job_id)
        raise Conflict(f"the job is {state}", "only waiting jobs can be moved", code="job_not_waiting")


def _state(session: Session, owner_id: str, job_id: str) -> State:
    state = session.execute(
        select(Job.state).where(Job.id == job_id, Job.owner_id == owner_id)
    ).scalar_one_or_none()
    if state is None:
        raise _no_job()
    return State(state)


def _check_batch(session: Session, owner_id: str, batch_id: str) -> None:
    found = session.execute(select(Batch.id).where(Batch.id == batch_id, Batch.owner_id == owner_id))
    if found.scalar_one_or_none() is None:
        raise NotFound("no such batch", "GET /api/v1/batches lists yours", code="no_batch")


def _no_job() -> NotFound:
    return NotFound("no such job", "GET /api/v1/jobs lists yours", code="no_job")
