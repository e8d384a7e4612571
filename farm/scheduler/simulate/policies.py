"""Who gets what: the farm's plan, and the peers it is compared with. All see the same fleet, window and rounds."""

from __future__ import annotations

import heapq
import random
from datetime import UTC, datetime, timedelta
from typing import Protocol

from farm.scheduler.group import Group, GroupKey, Head, front
from farm.scheduler.plan import Snapshot, plan
from farm.scheduler.share import Ledger
from farm.scheduler.simulate.trace import Ask
from farm.scheduler.simulate.world import SimWorker

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Policy(Protocol):
    """Keeps what waits; each round gives (job, worker) pairs."""

    def add(self, number: int, ask: Ask) -> None: ...

    def give(self, workers: list[SimWorker], now: float) -> list[tuple[int, int]]: ...


class Farm:
    """The production plan; a round sees the front of each user's queue, as in production."""

    def __init__(self, seed: int):
        #: user -> (priority, number) of what waits
        self._queues: dict[str, list[tuple[int, int]]] = {}
        self._asks: dict[int, tuple[Ask, Head]] = {}
        self._ledger = Ledger()

    def add(self, number: int, ask: Ask) -> None:
        heapq.heappush(self._queues.setdefault(ask.key.owner_id, []), (ask.key.priority, number))
        created = EPOCH + timedelta(seconds=ask.at)
        self._asks[number] = ask, Head(id=str(number), attempt=0, created_at=created)

    def give(self, workers: list[SimWorker], now: float) -> list[tuple[int, int]]:
        room = sum(worker.room(now) for worker in workers)
        if not room or not self._queues:
            return []
        views = tuple(
            worker.view(str(number), now) for number, worker in enumerate(workers) if now >= worker.down_until
        )
        seen = {
            owner: [heapq.heappop(queue) for _ in range(min(len(queue), front(room, len(self._queues))))]
            for owner, queue in self._queues.items()
        }
        snapshot = Snapshot(groups=self._groups(seen), workers=views, ledger=self._ledger, foresee=0)
        made = plan(snapshot, EPOCH + timedelta(seconds=now))
        self._ledger = made.ledger
        given = [(int(item.job_id), int(item.worker_id)) for item in made.assignments]
        for worker_id, job_id in made.prefetch.items():
            workers[int(worker_id)].prefetch(self._asks[int(job_id)][0].key.need, now)
        for number, _ in given:
            del self._asks[number]
        for owner, entries in seen.items():
            queue = self._queues[owner]
            for entry in entries:
                if entry[1] in self._asks:
                    heapq.heappush(queue, entry)
            if not queue:
                del self._queues[owner]
        return given

    def _groups(self, seen: dict[str, list[tuple[int, int]]]) -> tuple[Group, ...]:
        found: dict[GroupKey, list[tuple[Ask, Head]]] = {}
        for entries in seen.values():
            for _, number in entries:
                item = self._asks[number]
                found.setdefault(item[0].key, []).append(item)
        return tuple(
            Group(
                key=key,
                heads=tuple(head for _, head in items),
                steps=sum(ask.steps for ask, _ in items) / len(items),
            )
            for key, items in found.items()
        )


class Fifo:
    """The oldest job of the most urgent class to the worker that is free first."""

    def __init__(self, seed: int):
        self._waiting: list[tuple[int, float, int]] = []

    def add(self, number: int, ask: Ask) -> None:
        heapq.heappush(self._waiting, (ask.key.priority, ask.at, number))

    def give(self, workers: list[SimWorker], now: float) -> list[tuple[int, int]]:
        room = [
            (len(worker.open) + depth, worker.free_at, number)
            for number, worker in enumerate(workers)
            for depth in range(worker.room(now))
        ]
        heapq.heapify(room)
        given = []
        while room and self._waiting:
            given.append((heapq.heappop(self._waiting)[2], heapq.heappop(room)[2]))
        return given


class Random:
    """Any waiting job to any worker with room."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self._waiting: list[int] = []

    def add(self, number: int, ask: Ask) -> None:
        self._waiting.append(number)

    def give(self, workers: list[SimWorker], now: float) -> list[tuple[int, int]]:
        room = [number for number, worker in enumerate(workers) for _ in range(worker.room(now))]
        self._random.shuffle(room)
        given = []
        while room and self._waiting:
            place = self._random.randrange(len(self._waiting))
            self._waiting[place], self._waiting[-1] = self._waiting[-1], self._waiting[place]
            given.append((self._waiting.pop(), room.pop()))
        return given


POLICIES: dict[str, type[Farm] | type[Fifo] | type[Random]] = {"farm": Farm, "fifo": Fifo, "random": Random}
