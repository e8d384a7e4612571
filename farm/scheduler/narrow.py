"""Which workers a waiting job may begin on, where not all will do: not those it was lost on, none that cannot fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from farm.scheduler.group import Need, WaitingJob
from farm.scheduler.lanes import WorkerView


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """What holds jobs that no worker can begin now, in a sentence."""

    words: str


def elsewhere(
    waiting: Sequence[WaitingJob], lost_on: Mapping[str, frozenset[str]], workers: Sequence[WorkerView]
) -> list[WaitingJob]:
    """Send jobs that were lost to workers on which they were not, while there are such that suit them.

    So a job that brings down its workers is told from a worker that brings down its jobs.
    """

    def moved(job: WaitingJob) -> WaitingJob:
        avoid = lost_on.get(job.id)
        if not avoid or not any(view.id not in avoid and view.suits(job.need) for view in workers):
            return job
        return replace(job, need=replace(job.need, avoid=avoid))

    return [moved(job) for job in waiting]


def without_fetching(waiting: Sequence[WaitingJob], workers: Sequence[WorkerView]) -> list[WaitingJob]:
    """Allow each job only the workers that hold all that it needs: the others could not fetch it now."""
    only: dict[Need, Need] = {}
    for job in waiting:
        need = job.need
        if need not in only:
            ready = frozenset(view.id for view in workers if view.holds_all(need) and view.suits(need))
            only[need] = replace(need, only=ready)
    return [replace(job, need=only[job.need]) for job in waiting]
