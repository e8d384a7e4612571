"""Workers: they register, beat, drain and leave. Whether one is dead is decided by its counter standing still."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from farm.ids import WorkerId
from farm.jobs.reports import WorkerReport


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrders:
    """The answer to a heartbeat."""

    #: finish or hand back what is held, take nothing new
    drain: bool
    #: this worker was given up; it has to register again before it may take jobs
    gone: bool


def register(
    session: Session, name: str, device: str, report: WorkerReport, now: datetime, *, crash_limit: int = 3
) -> WorkerId:
    """Join the fleet. A name seen before keeps its id; what it was running is lost with its former process."""
    raise NotImplementedError


def beat(session: Session, worker_id: str, report: WorkerReport, now: datetime) -> WorkerOrders:
    """Count on, keep the report, hear the orders."""
    raise NotImplementedError


def drain(session: Session, worker_id: str) -> None:
    """Ask a worker to finish what it has and take nothing new.

    Raises:
        NotFound: no such worker.
    """
    raise NotImplementedError


def resume(session: Session, worker_id: str) -> None:
    """Let a drained worker take jobs again.

    Raises:
        NotFound: no such worker.
    """
    raise NotImplementedError


def leave(session: Session, worker_id: str, now: datetime) -> None:
    """Leave in good order: whatever this worker still holds is queued again."""
    raise NotImplementedError


def mark_gone(session: Session, worker_id: str, seq_seen: int, now: datetime) -> bool:
    """Give up a worker whose counter stood still at `seq_seen`; False when it has moved after all."""
    raise NotImplementedError
