"""What waits for the simulated scheduler: the front of each user's queue, gathered into groups that are kept up to date."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from farm.scheduler.group import Group, GroupKey, Head, Need
from farm.scheduler.simulate.trace import Ask

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
#: (priority, number): the order in which one user's jobs are read
_Place = tuple[int, int]


@dataclass(slots=True)
class _Queue:
    """One user's jobs: those in sight in order, the others on a heap."""

    front: list[_Place] = field(default_factory=list)
    rest: list[_Place] = field(default_factory=list)


@dataclass(slots=True)
class _Members:
    """Jobs in sight of one group, old to new."""

    numbers: list[int] = field(default_factory=list)
    steps: int = 0
    made: Group | None = None


class Waiting:
    """Jobs by user. Between two rounds only what came and went is touched, however long the queues are."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._asks: dict[int, tuple[Ask, Head]] = {}
        self._members: dict[GroupKey, _Members] = {}

    def __len__(self) -> int:
        return len(self._asks)

    @property
    def users(self) -> int:
        return len(self._queues)

    def add(self, number: int, ask: Ask) -> None:
        created = EPOCH + timedelta(seconds=ask.at)
        self._asks[number] = ask, Head(id=str(number), attempt=0, created_at=created)
        queue = self._queues.setdefault(ask.key.owner_id, _Queue())
        place = ask.key.priority, number
        if queue.front and place < queue.front[-1]:
            insort(queue.front, place)
            self._join(number)
        else:
            heapq.heappush(queue.rest, place)

    def groups(self, most: int) -> tuple[Group, ...]:
        """Groups of the front of each user's queue: at least `most` jobs of each, if there are as many."""
        for queue in self._queues.values():
            while queue.rest and len(queue.front) < most:
                place = heapq.heappop(queue.rest)
                queue.front.append(place)
                self._join(place[1])
            while len(queue.front) > 2 * most:
                place = queue.front.pop()
                heapq.heappush(queue.rest, place)
                self._part(place[1])
        return tuple(members.made or self._make(key, members) for key, members in self._members.items())

    def need(self, number: int) -> Need:
        """What a job that waits needs."""
        return self._asks[number][0].key.need

    def take(self, number: int) -> None:
        """A job that was in sight is given out."""
        self._part(number)
        ask, _ = self._asks.pop(number)
        owner = ask.key.owner_id
        queue = self._queues[owner]
        del queue.front[bisect_left(queue.front, (ask.key.priority, number))]
        if not queue.front and not queue.rest:
            del self._queues[owner]

    def _make(self, key: GroupKey, members: _Members) -> Group:
        members.made = Group(
            key=key,
            heads=tuple(self._asks[number][1] for number in members.numbers),
            steps=members.steps / len(members.numbers),
        )
        return members.made

    def _join(self, number: int) -> None:
        ask, _ = self._asks[number]
        members = self._members.setdefault(ask.key, _Members())
        insort(members.numbers, number)
        members.steps += ask.steps
        members.made = None

    def _part(self, number: int) -> None:
        ask, _ = self._asks[number]
        members = self._members[ask.key]
        del members.numbers[bisect_left(members.numbers, number)]
        members.steps -= ask.steps
        members.made = None
        if not members.numbers:
            del self._members[ask.key]
