"""What only the leading scheduler does to jobs: assign, take back, give up. Guarded by its epoch as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import ColumnElement, Integer, String, Table, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from farm.db.models import Job, Lease, Worker
from farm.db.rows import changed, table_of
from farm.jobs import losses
from farm.jobs.crashes import is_poison
from farm.jobs.moves import RELEASED, end_attempt, move, note_moves, unless_cancelled
from farm.jobs.states import State

_LEASE = "scheduler"


def leads(epoch: int | None) -> tuple[ColumnElement[bool], ...]:
    """Guard of a leader's statement: its epoch still stands. The lock keeps a successor waiting until the commit."""
    if epoch is None:
        return ()
    return (
        select(Lease.name)
        .where(Lease.name == _LEASE, Lease.epoch == epoch)
        .with_for_update(read=True)
        .exists(),
    )


def assign(
    session: Session, job_id: str, attempt_seen: int, worker_id: str, now: datetime, *, epoch: int
) -> bool:
    """Give a waiting job to a worker, as attempt `attempt_seen + 1`; only while `epoch` leads."""
    return bool(assign_all(session, [(job_id, attempt_seen, worker_id)], now, epoch=epoch))


def assign_all(
    session: Session, items: Sequence[tuple[str, int, str]], now: datetime, *, epoch: int
) -> set[tuple[str, int]]:
    """As `assign`, for all (job, attempt seen, worker) of a round in one statement; returns the (job, attempt seen)
    that were given, only while `epoch` leads."""
    if not items:
        return set()
    rows = [{"job": job_id, "seen": seen, "worker": worker_id} for job_id, seen, worker_id in sorted(items)]
    given = table_of(session, rows, {"job": String, "seen": Integer, "worker": String})
    done = session.execute(
        update(Job)
        .where(
            Job.id == given.c.job,
            # in these words SQLite goes by the ids and does not read all that waits
            (Job.state == State.QUEUED).is_(True),
            Job.attempt == given.c.seen,
            Job.cancel_requested_at.is_(None),
            or_(Job.not_before.is_(None), Job.not_before <= now),
            *leads(epoch),
        )
        .values(
            state=State.ASSIGNED,
            attempt=Job.attempt + 1,
            worker_id=given.c.worker,
            hb_seq=0,
            sends=1,
            assigned_at=now,
            wait_reason=None,
            not_before=None,
        )
        .returning(Job.id, Job.attempt, Job.worker_id),
        execution_options={"synchronize_session": False},
    ).all()
    if done:
        note_moves(
            session, "assign", State.ASSIGNED, [(row.id, row.attempt, row.worker_id) for row in done], now
        )
    return {(row.id, row.attempt - 1) for row in done}


def note_send(session: Session, job_id: str, attempt: int) -> bool:
    """Count a message that is about to be sent again; False when the job is not assigned any more."""
    done = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state == State.ASSIGNED, Job.attempt == attempt)
        .values(sends=Job.sends + 1),
        execution_options={"synchronize_session": False},
    )
    return changed(done) == 1


def unassign(
    session: Session,
    job_id: str,
    attempt: int,
    now: datetime,
    *,
    epoch: int | None = None,
    reason: str | None = None,
) -> bool:
    """Take back a job that its worker has not claimed, with a `reason` for its history; counts as nothing."""
    moved = move(
        session,
        "unassign",
        (Job.id == job_id, Job.state == State.ASSIGNED, Job.attempt == attempt, *leads(epoch)),
        {
            **RELEASED,
            "state": unless_cancelled(State.QUEUED, State.CANCELLED),
            "finished_at": unless_cancelled(None, now),
        },
        now,
        reason,
    )
    return moved is not None


def lose(
    session: Session,
    job_id: str,
    attempt: int,
    hb_seq_seen: int,
    *,
    crash_limit: int,
    now: datetime,
    epoch: int | None = None,
    outage: bool = False,
) -> bool:
    """Queue a job again whose heartbeat stood still at `hb_seq_seen`; as poison it fails as quarantined.

    What was lost in an `outage` does not count, up to `crash_limit` times.
    """
    seen = session.execute(
        select(Job.crash_count, Job.step, Job.worker_id, Worker.name, losses.pardons(Job.id).label("pardons"))
        .outerjoin(Worker, Worker.id == Job.worker_id)
        .where(Job.id == job_id, Job.state == State.RUNNING, Job.attempt == attempt)
    ).one_or_none()
    if seen is None:
        return False
    guard = (
        Job.id == job_id,
        Job.state == State.RUNNING,
        Job.attempt == attempt,
        Job.hb_seq == hb_seq_seen,
        Job.crash_count == seen.crash_count,
        *leads(epoch),
    )
    pardoned = outage and seen.pardons < crash_limit
    crashes = seen.crash_count + (not pardoned)
    last = f"{seen.name or 'a worker that is gone'}, at step {seen.step}"
    if not pardoned and _is_poison(session, job_id, seen.worker_id, crashes, crash_limit):
        times = "once" if crashes == 1 else f"{crashes} times"
        name, message = "quarantine", f"its worker was lost {times} while rendering it (last: {last})"
        values = {
            "state": unless_cancelled(State.FAILED, State.CANCELLED),
            "error_code": unless_cancelled("quarantined", None),
            "error_message": unless_cancelled(message, None),
            "finished_at": now,
            "worker_id": None,
            "stage": None,
        }
    else:
        name, message = "lose", f"lost with {last}" + (", in an outage" if pardoned else "")
        values = {
            **RELEASED,
            "state": unless_cancelled(State.QUEUED, State.CANCELLED),
            "finished_at": unless_cancelled(None, now),
        }
    moved = move(session, name, guard, {**values, "crash_count": crashes}, now, message)
    if moved is None:
        return False
    end_attempt(session, job_id, attempt, "lost", now, detail=last, pardoned=pardoned)
    return True


def _is_poison(session: Session, job_id: str, worker_id: str, crashes: int, limit: int) -> bool:
    before = losses.lost_on(session, [job_id]).get(job_id, frozenset())
    lost_on = before | {worker_id}
    others = session.execute(
        select(func.count()).select_from(Worker).where(Worker.state == "up", Worker.id.not_in(lost_on))
    ).scalar_one()
    return is_poison(crashes, limit, lost_on, others)


def note_first_estimates(session: Session, starts: Mapping[str, datetime], now: datetime) -> None:
    """Keep when jobs were first expected to start: what the estimate is judged by once they do."""
    if not starts:
        return
    table = cast(Table, Job.__table__)
    moment = table.c.first_estimate.type
    session.connection().execute(
        update(table)
        .where(
            table.c.id == bindparam("job"),
            table.c.state == State.QUEUED,
            table.c.first_estimate.is_(None),
        )
        .values(
            first_estimate=bindparam("start", type_=moment), first_estimate_at=bindparam("made", type_=moment)
        ),
        [{"job": job_id, "start": start, "made": now} for job_id, start in sorted(starts.items())],
    )
