"""What owners do to their jobs: cancel, retry, reorder. Each is one guarded statement."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from farm.jobs.states import State


def cancel(session: Session, owner_id: str, job_id: str, now: datetime) -> State:
    """Cancel a job; a running one ends within a step and a heartbeat. Returns its state now; a second call changes nothing.

    Raises:
        NotFound: no such job of this owner.
        Conflict: it has succeeded or failed already.
    """
    raise NotImplementedError


def cancel_batch(session: Session, owner_id: str, batch_id: str, now: datetime) -> int:
    """Cancel what is left of a batch, in one statement; returns how many jobs that were.

    Raises:
        NotFound: no such batch of this owner.
    """
    raise NotImplementedError


def retry(session: Session, owner_id: str, job_id: str, now: datetime) -> State:
    """Queue a failed or cancelled job again.

    Raises:
        NotFound: no such job of this owner.
        Conflict: it has not ended, or has succeeded.
    """
    raise NotImplementedError


def retry_failed(session: Session, owner_id: str, batch_id: str, now: datetime) -> int:
    """Queue the failed jobs of a batch again; returns how many.

    Raises:
        NotFound: no such batch of this owner.
    """
    raise NotImplementedError


def set_priority(session: Session, owner_id: str, job_id: str, priority: str, now: datetime) -> None:
    """Move a waiting job to `interactive`, `normal` or `bulk`.

    Raises:
        BadRequest: no such priority.
        NotFound: no such job of this owner.
        Conflict: it does not wait any more.
    """
    raise NotImplementedError
