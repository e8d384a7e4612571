"""Jobs that stop in the middle and go on elsewhere: their checkpoints, and the order to give way."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from farm.db.models import Job
from farm.db.rows import changed
from farm.jobs.leading import leads
from farm.jobs.moves import move, runs
from farm.jobs.states import OPEN


def note_checkpoint(session: Session, job_id: str, attempt: int, key: str, sha256: str, step: int) -> bool:
    """Let the job know where its state after `step` steps is stored; False when the job runs another attempt.

    The newest attempt's checkpoint counts, also when an earlier attempt got further: the later one started over with
    a reason.
    """
    done = session.execute(
        update(Job)
        .where(*runs(job_id, attempt))
        .values(checkpoint_key=key, checkpoint_sha256=sha256, checkpoint_step=step),
        execution_options={"synchronize_session": False},
    )
    return changed(done) == 1


def resumed(session: Session, job_id: str, attempt: int, step: int, words: str, now: datetime) -> bool:
    """Tell the job's history that this attempt went on from a checkpoint, in `words`."""
    return move(session, "resume", runs(job_id, attempt), {"step": step}, now, words) is not None


def preempt(
    session: Session, job_id: str, attempt: int, reason: str, now: datetime, *, epoch: int | None = None
) -> bool:
    """Ask a running attempt to give way to a more urgent job, with a `reason` for its history.

    Its worker hears of it with its next heartbeat; at the next border of steps it saves the job and hands it back. A
    job that cannot be saved goes on to its end: giving way would cost all its steps, every time anew. False: the job
    runs another attempt, or this one was asked before.
    """
    guard = (
        *runs(job_id, attempt),
        or_(Job.preempt_attempt.is_(None), Job.preempt_attempt != attempt),
        *leads(epoch),
    )
    values = {"preempt_attempt": attempt, "preempted_at": now}
    return move(session, "preempt", guard, values, now, reason) is not None


def checkpoints_in_use(session: Session, jobs: Collection[str]) -> frozenset[str]:
    """Keys of the checkpoints that a later attempt of these jobs may go on from."""
    rows = session.scalars(
        select(Job.checkpoint_key).where(
            Job.id.in_(jobs), Job.state.in_(sorted(OPEN)), Job.checkpoint_key.is_not(None)
        )
    )
    return frozenset(key for key in rows if key is not None)
