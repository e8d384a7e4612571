"""The decision itself: (what waits, who is there) in, assignments out. Pure; production, tests and simulators share it.

A job goes to the worker that would start it soonest. Usually that is the one whose memory already holds the model and the
adapters; when that worker's window is full and it would still be sooner than loading elsewhere, the job waits for it.
Among jobs of one priority the order is by *virtual arrival*: the time of submission plus the seconds that a start would
cost now. So work that is hot somewhere may pass older work that is not, but never by more than the cost of that start:
nothing starves.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from farm.scheduler.score import Rates, start_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a group of jobs needs on a worker before it can start."""

    model_key: str
    model_bytes: int
    #: adapters by content, with their sizes
    adapters: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    id: str
    #: attempt number as read; the assignment is a compare-and-set on it
    attempt: int
    owner_id: str
    priority: int
    created_at: datetime
    need: Need
    batch_key: str
    steps: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as its last report and its open jobs describe it."""

    id: str
    name: str
    #: how many more jobs its window takes now
    free_slots: int
    #: seconds until everything already given to it is done
    busy_seconds: float
    #: model that will be loaded once it has done what it has
    model_key: str | None
    adapters: frozenset[str] = frozenset()
    disk: frozenset[str] = frozenset()
    rates: Rates = field(default_factory=Rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that one round knows. `waiting` is a window of the queue, best first."""

    waiting: tuple[WaitingJob, ...]
    workers: tuple[WorkerView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    job_id: str
    attempt: int
    worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Where and when a waiting job is expected to start, as far as this round can see."""

    job_id: str
    worker: WorkerView | None
    #: seconds until its first step
    seconds: float
    #: jobs that stand before it on that worker and in the queue
    ahead: int
    #: adapters that the worker already holds, of all that the job needs
    adapters_hot: int
    model_hot: bool


@dataclass(slots=True)
class _Lane:
    """One worker during planning: `WorkerView` moved on by what was given to it."""

    view: WorkerView
    slots: int
    busy: float
    model_key: str | None
    adapters: set[str]
    queued: int = 0

    def cost(self, need: Need) -> float:
        return start_cost(
            self.view.rates,
            model_hot=self.model_key == need.model_key,
            model_bytes=0 if need.model_key in self.view.disk else need.model_bytes,
            cold_bytes=sum(
                size for sha, size in need.adapters if sha not in self.adapters and sha not in self.view.disk
            ),
            cold_adapters=sum(sha not in self.adapters for sha, _ in need.adapters),
        )

    def take(self, job: WaitingJob) -> None:
        self.busy += self.cost(job.need) + self.view.rates.job_seconds(job.batch_key, job.steps, job.count)
        self.model_key = job.need.model_key
        self.adapters.update(sha for sha, _ in job.need.adapters)
        self.queued += 1


def plan(snapshot: Snapshot, now: datetime) -> tuple[list[Assignment], list[Outlook]]:
    """Assignments of this round, and the outlook of what stays waiting (in queue order).

    >>> plan(Snapshot(waiting=(), workers=()), datetime(2026, 1, 1))
    ([], [])
    """
    lanes = [_Lane(w, w.free_slots, w.busy_seconds, w.model_key, set(w.adapters)) for w in snapshot.workers]
    assignments: list[Assignment] = []
    outlooks: list[Outlook] = []
    for position, job in enumerate(_in_order(snapshot.waiting, lanes)):
        if not lanes:
            outlooks.append(
                Outlook(
                    job_id=job.id, worker=None, seconds=0, ahead=position, adapters_hot=0, model_hot=False
                )
            )
            continue
        lane = min(lanes, key=lambda lane: (lane.busy + lane.cost(job.need), lane.view.name))
        if lane.slots > 0:
            lane.slots -= 1
            assignments.append(Assignment(job_id=job.id, attempt=job.attempt, worker_id=lane.view.id))
        else:
            outlooks.append(_outlook(job, lane, position - len(assignments)))
        lane.take(job)
    return assignments, outlooks


def _in_order(waiting: Sequence[WaitingJob], lanes: Sequence[_Lane]) -> list[WaitingJob]:
    costs: dict[Need, float] = {}

    def arrival(job: WaitingJob) -> datetime:
        if job.need not in costs:
            costs[job.need] = min((lane.cost(job.need) for lane in lanes), default=0.0)
        return job.created_at + timedelta(seconds=costs[job.need])

    heap = [(job.priority, arrival(job), job.id, job) for job in waiting]
    heapq.heapify(heap)
    return [heapq.heappop(heap)[3] for _ in range(len(heap))]


def _outlook(job: WaitingJob, lane: _Lane, ahead: int) -> Outlook:
    return Outlook(
        job_id=job.id,
        worker=lane.view,
        seconds=lane.busy + lane.cost(job.need),
        ahead=ahead,
        adapters_hot=sum(sha in lane.adapters for sha, _ in job.need.adapters),
        model_hot=lane.model_key == job.need.model_key,
    )
