"""What waits, gathered into groups whose jobs are interchangeable: the plan's cost grows with groups, not with jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from farm.scheduler.batches import RideKey

#: Jobs of each user read beyond a share of what the workers' windows can take, so that the outlook reaches into the queue.
LOOK_AHEAD = 100


def front(room: int, users: int) -> int:
    """How many jobs of each of so many waiting users one round sees: more than a fair share of the room.

    >>> front(20, 1), front(20_000, 20)
    (180, 4100)
    """
    return LOOK_AHEAD + 4 * room // max(1, users)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a group of jobs needs on a worker before it can start."""

    model_key: str
    model_bytes: int
    #: adapters by content, with their sizes
    adapters: tuple[tuple[str, int], ...] = ()
    #: bytes of memory that the worker's device must have in all
    memory_bytes: int = 0
    #: tags that the worker must carry
    tags: frozenset[str] = frozenset()
    #: ids of workers that are to be left out, because it was lost on them
    avoid: frozenset[str] = frozenset()
    #: ids of the only workers that can begin it now; None: any
    only: frozenset[str] | None = None
    #: asked for so often that it is worked out once
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        value = hash(
            (
                self.model_key,
                self.model_bytes,
                self.adapters,
                self.memory_bytes,
                self.tags,
                self.avoid,
                self.only,
            )
        )
        object.__setattr__(self, "_hash", value)

    def __hash__(self) -> int:
        return self._hash

    @property
    def pinned(self) -> bool:
        """Whether not every worker will do."""
        return bool(self.memory_bytes or self.tags or self.avoid) or self.only is not None


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
    #: how often its worker was lost with it
    crashes: int = 0
    #: API key that it was sent with, if that has a limit
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKey:
    need: Need
    batch_key: str
    owner_id: str
    #: 0 interactive, 1 normal, 2 bulk
    priority: int
    #: API key that the jobs were sent with, if that has a limit
    key_id: str = ""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        value = hash((self.need, self.batch_key, self.owner_id, self.priority, self.key_id))
        object.__setattr__(self, "_hash", value)

    def __hash__(self) -> int:
        return self._hash

    @property
    def ride(self) -> RideKey:
        """Equal for jobs that may share forward passes."""
        return self.need.model_key, self.batch_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One job of a group."""

    id: str
    attempt: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    key: GroupKey
    #: the oldest jobs, oldest first; as many as could be given out at once are enough
    heads: Sequence[Head]
    #: denoising steps of one job, all its pictures together
    steps: float


def gather(waiting: Iterable[WaitingJob]) -> tuple[Group, ...]:
    """Groups of `waiting`, each with its jobs from old to new; its steps are the mean of theirs."""
    found: dict[GroupKey, list[WaitingJob]] = {}
    for job in waiting:
        key = GroupKey(
            need=job.need,
            batch_key=job.batch_key,
            owner_id=job.owner_id,
            priority=job.priority,
            key_id=job.key_id,
        )
        found.setdefault(key, []).append(job)
    return tuple(
        Group(
            key=key,
            heads=tuple(
                Head(id=job.id, attempt=job.attempt, created_at=job.created_at)
                for job in sorted(jobs, key=lambda job: (job.created_at, job.id))
            ),
            steps=sum(job.steps * job.count for job in jobs) / len(jobs),
        )
        for key, jobs in found.items()
    )
