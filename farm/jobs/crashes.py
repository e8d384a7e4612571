"""What lost attempts prove: that a job is poison, that a worker is broken, or that neither is to blame. Pure decisions.

A crash is the loss of one worker with all that it ran at that moment. One job explains every crash that it was part of,
so crashes are evidence against anything else only as far as no two of them share a job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

#: crashes in a row, on different jobs, after which a worker is suspect
SUSPECT_AFTER = 3
#: share of the fleet whose loss within `OUTAGE_SECONDS` is an outage
OUTAGE_SHARE = 0.3
OUTAGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt that has ended."""

    job_id: str
    outcome: str
    pardoned: bool
    started_at: datetime
    ended_at: datetime


def independent(crashes: Iterable[Collection[str]]) -> int:
    """How many crashes, each given as the jobs that it took along, share no job with another one that counts.

    >>> independent([{"a", "b"}, {"b"}, {"c"}, set()])
    3
    """
    seen: set[str] = set()
    count = 0
    for jobs in crashes:
        if seen.isdisjoint(jobs):
            count += 1
        seen.update(jobs)
    return count


def is_outage(lost: Mapping[str, Collection[str]], fleet: int) -> bool:
    """Whether workers lost within a minute, each with the jobs that it ran, are too many for a job to be the cause.

    `fleet` is the number of workers, those included. What one job may have done to worker after worker is no outage, and
    neither is the loss of a single worker, however small the fleet.

    >>> is_outage({"one": {"a"}, "two": {"b"}}, 6), is_outage({"one": {"a"}, "two": {"a"}}, 2), is_outage({"one": {"a"}}, 1)
    (True, False, False)
    """
    count = independent(lost.values())
    return count > 1 and count >= OUTAGE_SHARE * fleet


def is_suspect(history: Iterable[Ended]) -> bool:
    """Whether a worker, of whose attempts these ended last, newest first, has crashed on job after job since its last
    success."""
    crashes: list[set[str]] = []
    began: datetime | None = None
    for item in history:
        if item.outcome == "succeeded":
            break
        if item.outcome != "lost" or item.pardoned:
            continue
        # what ran at the same time was lost in the same crash
        if began is None or item.ended_at < began:
            crashes.append(set())
        crashes[-1].add(item.job_id)
        began = item.started_at
    return independent(crashes) >= SUSPECT_AFTER


def is_poison(crashes: int, limit: int, lost_on: Collection[str], others: int) -> bool:
    """Whether a job that took its worker along so many times is to be given up.

    It has to have happened on two workers while `others`, on which it was not lost, are there to try; but a job that
    comes back to the same one all the same is given up after twice as many crashes.

    >>> is_poison(3, 3, {"one"}, 0), is_poison(3, 3, {"one"}, 1), is_poison(3, 3, {"one", "two"}, 1), is_poison(6, 3, {"one"}, 1)
    (True, False, True, True)
    """
    tried = len(lost_on) >= min(2, limit) or not others
    return crashes >= (limit if tried else 2 * limit)
