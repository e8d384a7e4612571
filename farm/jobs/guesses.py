"""How good estimates of a start turned out to be: recorded with each first attempt, and read back as error bars.

What plans reckon with is a worker's rate per step. What a job takes besides (encoding, decoding, patching) is measured here
over the latest jobs, and what comes in between (other people's jobs, failures) makes the bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import quantiles
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Attempt, Job, Worker
from farm.jobs.rates import step_seconds
from farm.jobs.reports import WorkerReport

#: latest attempts that are looked at, and how many of them make a bar
LATEST = 400
ENOUGH = 20
EACH = 60
#: an expected wait is taken for no shorter
LEAST_SECONDS = 0.5
#: bounds of `slowness`
MOST_SLOW = 4.0


class Bar(NamedTuple):
    """For waits that are expected to take no longer than this: multiples of them between which four of five come."""

    upto: float
    low: float
    high: float


#: until enough starts have been seen
GUESSED: tuple[Bar, ...] = (Bar(float("inf"), 0.5, 2.0),)


def first_guess(session: Session, job_id: str, attempt: int, now: datetime) -> dict[str, float | None]:
    """What the first attempt of a job, which is claimed `now`, had been expected to wait, and did, in seconds."""
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


def until_first_step(
    waited: float | None, started: datetime, ended: datetime | None, timings: Mapping[str, Any]
) -> float | None:
    """Seconds to the first step: a worker claims a job while another one samples, so its claim is no start.

    >>> from datetime import UTC, timedelta
    >>> claimed = datetime(2026, 1, 1, tzinfo=UTC)
    >>> ended = claimed + timedelta(seconds=10)
    >>> until_first_step(2.0, claimed, ended, {"sampling": 4.0, "uploading": 1.0})
    7.0
    """
    if waited is None or ended is None or not timings.get("sampling"):
        return waited
    worked = float(timings["sampling"]) + float(timings.get("uploading") or 0.0)
    return waited + max(0.0, (ended - started).total_seconds() - worked)


def bars(session: Session) -> tuple[Bar, ...]:
    """Error bars of the latest first attempts that have ended."""
    rows = session.execute(
        select(Attempt.expected_wait, Attempt.waited, Attempt.started_at, Attempt.ended_at, Attempt.timings)
        .order_by(Attempt.started_at.desc())
        .limit(LATEST)
    ).all()
    pairs = [
        (row.expected_wait, until_first_step(row.waited, row.started_at, row.ended_at, row.timings) or 0.0)
        for row in rows
        if row.expected_wait is not None and row.ended_at is not None
    ]
    return bars_of(pairs)


def bars_of(pairs: Sequence[tuple[float, float]]) -> tuple[Bar, ...]:
    """The 10 % and 90 % quantiles of waited by expected, around 1, of short waits and of longer ones.

    >>> bars_of([(10.0, 12.0)] * 5)
    (Bar(upto=inf, low=0.5, high=2.0),)
    >>> bars_of([(10.0, 15.0)] * 30)
    (Bar(upto=inf, low=1.0, high=1.5),)
    """
    if len(pairs) < ENOUGH:
        return GUESSED
    ordered = sorted((max(LEAST_SECONDS, expected), waited) for expected, waited in pairs)
    parts = max(1, len(ordered) // EACH)
    found = []
    for part in range(parts):
        some = ordered[part * len(ordered) // parts : (part + 1) * len(ordered) // parts]
        tenths = quantiles([waited / expected for expected, waited in some], n=10)
        upto = float("inf") if part == parts - 1 else some[-1][0]
        found.append(Bar(upto, min(1.0, tenths[0]), max(1.0, tenths[-1])))
    return tuple(found)


def bar_of(known: Sequence[Bar], seconds: float) -> Bar:
    """The bar for an expected wait."""
    return next((bar for bar in known if seconds <= bar.upto), known[-1])


def slowness(session: Session) -> float:
    """Device seconds of the latest jobs by what the rates of their workers had said; 1 before there are any."""
    rows = session.execute(
        select(Attempt.worker_id, Attempt.timings, Job.batch_key, Job.steps, Job.count)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.outcome == "succeeded")
        .order_by(Attempt.started_at.desc())
        .limit(LATEST // 2)
    ).all()
    reports = session.execute(select(Worker.id, Worker.report)).tuples()
    rates = {worker_id: WorkerReport.from_dict(report).seconds_per_step for worker_id, report in reports}
    taken = said = 0.0
    for row in rows:
        sampling = float(row.timings.get("sampling") or 0.0)
        known = rates.get(row.worker_id)
        if sampling and known and row.batch_key in known:
            taken += sampling + float(row.timings.get("patching") or 0.0)
            said += step_seconds(known, row.batch_key) * row.steps * row.count
    return min(MOST_SLOW, max(1.0, taken / said)) if said > 0 else 1.0
