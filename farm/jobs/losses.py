"""Lost attempts in SQL: what was lost of late, who is suspect, and the pardon of what an outage explains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, literal_column, select, update
from sqlalchemy.orm import Session, aliased

from farm.db.models import Attempt, Job, Worker
from farm.db.rows import changed
from farm.jobs.crashes import OUTAGE_SECONDS, SUSPECT_AFTER, Ended, is_outage, is_suspect
from farm.jobs.states import OPEN

_NO_SYNC = {"synchronize_session": False}
_MINUTE = timedelta(seconds=OUTAGE_SECONDS)
# spelt out, for the index of what was lost
_LOST = Attempt.outcome == literal_column("'lost'")
#: what a worker lost so long before the last loss of all proves nothing about it any more
_MEMORY = timedelta(days=1)
#: attempts of a worker that are looked at
_LAST = 30


def suspects(session: Session) -> set[str]:
    """Ids of the workers that get one job at a time, until one succeeds."""
    latest = session.scalar(select(func.max(Attempt.ended_at)).where(_LOST))
    if latest is None:
        return set()
    often = session.scalars(
        select(Attempt.worker_id)
        .where(_lost_since(latest - _MEMORY), Attempt.pardoned.is_(False))
        .group_by(Attempt.worker_id)
        .having(func.count() >= SUSPECT_AFTER)
    )
    return {worker_id for worker_id in often if is_suspect(_history(session, worker_id))}


def in_outage(session: Session, losing: Mapping[str, Collection[str]], now: datetime) -> bool:
    """Whether `losing`, workers with the jobs that are lost with them now, are part of an outage of the fleet."""
    lost: dict[str, set[str]] = defaultdict(set)
    for worker_id, jobs in losing.items():
        lost[worker_id].update(jobs)
    lately = select(Attempt.worker_id, Attempt.job_id).where(_lost_since(now - _MINUTE))
    for worker_id, job_id in session.execute(lately):
        lost[worker_id].add(job_id)
    there = session.scalars(select(Worker.id).where(Worker.state != "gone"))
    return is_outage(lost, len(lost.keys() | set(there)))


def pardon(session: Session, crash_limit: int, now: datetime) -> int:
    """Take back what was counted in the last minute, because it was an outage; returns how many losses that were.

    A job is pardoned as often as it may crash at most: of a farm that fails for ever, its jobs do too in the end.
    """
    rows = session.execute(
        select(Attempt.job_id, Attempt.attempt).where(
            _lost_since(now - _MINUTE), Attempt.pardoned.is_(False), pardons(Attempt.job_id) < crash_limit
        )
    ).all()
    count = 0
    for job_id, attempt in rows:
        done = session.execute(
            update(Attempt)
            .where(Attempt.job_id == job_id, Attempt.attempt == attempt, Attempt.pardoned.is_(False))
            .values(pardoned=True),
            execution_options=_NO_SYNC,
        )
        count += changed(done)
        if changed(done):
            session.execute(
                update(Job)
                .where(Job.id == job_id, Job.state.in_(sorted(OPEN)), Job.crash_count > 0)
                .values(crash_count=Job.crash_count - 1),
                execution_options=_NO_SYNC,
            )
    return count


def pardons(job_id: object) -> ColumnElement[int]:
    """How many losses of a job were pardoned."""
    before = aliased(Attempt)
    return (
        select(func.count())
        .select_from(before)
        .where(before.job_id == job_id, before.pardoned.is_(True))
        .scalar_subquery()
    )


def lost_on(session: Session, jobs: Collection[str]) -> dict[str, frozenset[str]]:
    """Ids of the workers on which each of the jobs was lost through no outage; jobs that never were are left out."""
    found: dict[str, set[str]] = defaultdict(set)
    rows = select(Attempt.job_id, Attempt.worker_id).where(
        Attempt.job_id.in_(jobs), Attempt.outcome == "lost", Attempt.pardoned.is_(False)
    )
    for job_id, worker_id in session.execute(rows) if jobs else ():
        found[job_id].add(worker_id)
    return {job_id: frozenset(workers) for job_id, workers in found.items()}


def _lost_since(moment: datetime) -> ColumnElement[bool]:
    return _LOST & (Attempt.ended_at > moment)


def _history(session: Session, worker_id: str) -> list[Ended]:
    rows = session.execute(
        select(Attempt.job_id, Attempt.outcome, Attempt.pardoned, Attempt.started_at, Attempt.ended_at)
        .where(Attempt.worker_id == worker_id, Attempt.ended_at.is_not(None))
        .order_by(Attempt.started_at.desc())
        .limit(_LAST)
    )
    return [Ended(**row) for row in rows.mappings()]
