"""Carries out what `preempt` decided: who gives way hears of it, who has not begun goes back to the queue."""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from farm.jobs import attempts, resuming
from farm.scheduler.facts import Assignment
from farm.scheduler.preempt import Handover

log = structlog.get_logger()


def as_assignment(handover: Handover) -> Assignment | None:
    """The urgent job's assignment; None when it has been given to the worker before."""
    if handover.attempt is None:
        return None
    return Assignment(job_id=handover.job_id, attempt=handover.attempt, worker_id=handover.worker_id)


def make_room(session: Session, handover: Handover, now: datetime, epoch: int) -> None:
    """Let the jobs that are in the way of an urgent one know, in the round's transaction and under its leader's epoch."""
    reason = f"an interactive job is to start on {handover.worker}"
    for job in (*handover.victims, *handover.taken_back):
        # what its worker has not claimed yet can simply be taken back
        if not attempts.unassign(session, job.id, job.attempt, now, epoch=epoch, reason=reason):
            resuming.preempt(session, job.id, job.attempt, reason, now, epoch=epoch)
    log.info(
        "makes_room", worker=handover.worker, job_id=handover.job_id, saved=len(handover.victims),
        taken_back=len(handover.taken_back), seconds=round(handover.seconds, 1),
    )  # fmt: skip
