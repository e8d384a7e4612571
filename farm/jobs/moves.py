"""The mechanics that all transitions share: one guarded UPDATE, its event, and the webhook of a job that ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, insert, null, select, update
from sqlalchemy.orm import Session

from farm.db.models import Attempt, Job, JobEvent, Outbox
from farm.ids import new_id
from farm.jobs.states import TERMINAL, TRANSITIONS, State

_NO_SYNC = {"synchronize_session": False}

#: first pause after a passing trouble; it doubles with each
RETRY_SECONDS = 5.0

#: what every way back into the queue resets
RELEASED: Mapping[str, Any] = {
    "worker_id": None,
    "stage": None,
    "step": 0,
    "sends": 0,
    "wait_reason": None,
    "assigned_at": None,
    "started_at": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A job right after a transition."""

    id: str
    attempt: int
    state: State


def unless_cancelled(value: Any, otherwise: Any) -> ColumnElement[Any]:
    """`value`, but `otherwise` for a job whose owner asked for a cancel.

    Every way back into the queue goes through this: a job that is queued and marked could neither be assigned nor
    cancelled.
    """
    return case(
        (Job.cancel_requested_at.is_(None), null() if value is None else value),
        else_=null() if otherwise is None else otherwise,
    )


def move(
    session: Session,
    name: str,
    guard: tuple[ColumnElement[bool], ...],
    values: Mapping[str, Any],
    now: datetime,
    detail: str | None = None,
) -> Moved | None:
    """Carry out transition `name` on the one job that `guard` describes; None when it describes none any more."""
    row = session.execute(
        update(Job)
        .where(*guard)
        .values(**values)
        .returning(Job.id, Job.attempt, Job.state, Job.batch_id, Job.webhook),
        execution_options=_NO_SYNC,
    ).one_or_none()
    if row is None:
        return None
    state = State(row.state)
    assert state in TRANSITIONS[name].targets, f"{name} led to {state}"
    session.execute(
        insert(JobEvent).values(
            job_id=row.id, attempt=row.attempt, transition=name, state=state, detail=detail, at=now
        )
    )
    if state in TERMINAL and row.webhook:
        session.execute(insert(Outbox).values(webhook_row(row.id, row.batch_id, row.webhook, state, now)))
    return Moved(id=row.id, attempt=row.attempt, state=state)


def note_moves(
    session: Session, name: str, state: State, moved: Sequence[tuple[str, int, str | None]], now: datetime
) -> None:
    """The events of many (job, attempt, detail) that one statement moved to a state that is not the end."""
    assert state in TRANSITIONS[name].targets - TERMINAL, f"{name} leads to {state}"
    session.execute(
        insert(JobEvent),
        [
            {
                "job_id": job_id,
                "attempt": attempt,
                "transition": name,
                "state": state,
                "detail": detail,
                "at": now,
            }
            for job_id, attempt, detail in moved
        ],
    )


def webhook_row(job_id: str, batch_id: str | None, url: str, state: State, now: datetime) -> dict[str, Any]:
    """A row of the outbox. Its payload carries ids, never addresses: receivers ask with their own key."""
    payload = {
        "type": f"job.{state}",
        "timestamp": now.isoformat(),
        "data": {"id": job_id, "state": str(state), "batch": batch_id},
    }
    return {
        "id": new_id("msg", now),
        "job_id": job_id,
        "url": url,
        "payload": payload,
        "tries": 0,
        "not_before": now,
        "delivered_at": None,
        "last_error": None,
        "created_at": now,
    }


def end_attempt(
    session: Session,
    job_id: str,
    attempt: int,
    outcome: str,
    now: datetime,
    *,
    detail: str | None = None,
    timings: Mapping[str, Any] | None = None,
    pardoned: bool = False,
) -> None:
    """Note how an attempt ended; one that never began has no row and needs none."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.attempt == attempt)
        .values(
            ended_at=func.coalesce(Attempt.ended_at, now),
            outcome=outcome,
            detail=detail,
            pardoned=pardoned,
            **({} if timings is None else {"timings": dict(timings)}),
        ),
        execution_options=_NO_SYNC,
    )


def end_well(
    session: Session,
    job_id: str,
    attempt: int,
    timings: Mapping[str, Any],
    now: datetime,
    *,
    warnings: Sequence[str] = (),
) -> tuple[bool, str | None]:
    """End a job with this attempt's result. Whether that result stands, and, when it is to be recorded now, in this
    transaction and only here, the job's owner."""
    values: dict[str, Any] = {
        "state": State.SUCCEEDED,
        "result_attempt": attempt,
        "finished_at": now,
        "worker_id": None,
        "stage": None,
        "step": Job.steps,
        "error_code": None,
        "error_message": None,
    }
    if warnings:
        values["warnings"] = list(warnings)
    if move(session, "succeed", runs(job_id, attempt), values, now) is None:
        recorded = session.execute(
            select(Job.result_attempt).where(Job.id == job_id, Job.state == State.SUCCEEDED)
        ).scalar_one_or_none()
        return recorded == attempt, None
    end_attempt(session, job_id, attempt, "succeeded", now, timings=timings)
    return True, session.execute(select(Job.owner_id).where(Job.id == job_id)).scalar_one()


def runs(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    """The guard of all that a worker does to its running job. Lease time is not in it: a lease's end permits taking a
    job away, it does not itself take it."""
    return Job.id == job_id, Job.state == State.RUNNING, Job.attempt == attempt


def pause(job_id: str, retries: int) -> timedelta:
    """Pause before the next try. Jobs that fail together do not come back together: the id's last letters spread them.

    >>> pause("job_A", 0) < pause("job_A", 1) < pause("job_A", 2)
    True
    """
    spread = 0.75 + sum(map(ord, job_id[-4:])) % 32 / 64
    return timedelta(seconds=RETRY_SECONDS * 2**retries * spread)
