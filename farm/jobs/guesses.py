"""How good estimates of a start turned out to be: recorded with each first attempt, and read back as error bars."""

from __future__ import annotations

from datetime import datetime
from statistics import quantiles

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Attempt, Job

#: low and high, as factors of the estimate, until enough starts have been seen
GUESSED_SPREAD = (0.5, 2.0)
#: latest attempts that are looked at, and how many of them must have been foreseen
LATEST = 400
ENOUGH = 20


def first_guess(session: Session, job_id: str, attempt: int, now: datetime) -> dict[str, float | None]:
    """What the first attempt of a job, which begins `now`, had been expected to wait, and did, in seconds."""
    if attempt != 1:
        return {"expected_wait": None, "waited": None}
    row = session.execute(
        select(Job.first_estimate, Job.first_estimate_at).where(Job.id == job_id)
    ).one_or_none()
    if row is None or row.first_estimate is None or row.first_estimate_at is None:
        return {"expected_wait": None, "waited": None}
    return {
        "expected_wait": (row.first_estimate - row.first_estimate_at).total_seconds(),
        "waited": (now - row.first_estimate_at).total_seconds(),
    }


def spread(session: Session) -> tuple[float, float]:
    """Factors between which four of five of the latest waits came out, by their estimates."""
    rows = session.execute(
        select(Attempt.expected_wait, Attempt.waited)
        .order_by(Attempt.job_id.desc(), Attempt.attempt.desc())
        .limit(LATEST)
    )
    return spread_of([(row.expected_wait, row.waited) for row in rows if row.expected_wait and row.waited])


def spread_of(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The 10 % and 90 % quantiles of waited by expected, around 1.

    >>> spread_of([(10.0, 12.0)] * 5), spread_of([(10.0, 15.0)] * 30)
    ((0.5, 2.0), (1.0, 1.5))
    """
    if len(pairs) < ENOUGH:
        return GUESSED_SPREAD
    tenths = quantiles([waited / expected for expected, waited in pairs], n=10)
    return min(1.0, tenths[0]), max(1.0, tenths[-1])
