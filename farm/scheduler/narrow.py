"""Which workers a waiting job may begin on, where not all will do: not those it was lost on, none that cannot fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from farm.scheduler.group import WaitingJob
from farm.scheduler.lanes import WorkerView


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
