"""Who gets what: the farm's plan, and the peers it is compared with. All see the same fleet, window and rounds."""

from __future__ import annotations

import heapq
import random
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol

from farm.scheduler.group import Group, GroupKey, Head
from farm.scheduler.plan import Snapshot, plan
from farm.scheduler.share import Ledger
from farm.scheduler.simulate.trace import Ask
from farm.scheduler.simulate.world import SimWorker

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
#: jobs of one group that a round may give out
HEADS = 256


class Policy(Protocol):
    """Keeps what waits; each round gives (job, worker) pairs."""

    def add(self, number: int, ask: Ask) -> None: ...

    def give(self, workers: list[SimWorker], now: float) -> list[tuple[int, int]]: ...


class Farm:
    """The production plan, on groups that are kept up to date from round to round."""

    def __init__(self, seed: int):
        self._groups: dict[GroupKey, deque[tuple[Head, int]]] = {}
        self._ledger = Ledger()

    def add(self, number: int, ask: Ask) -> None:
        head = Head(id=str(number), attempt=0, created_at=EPOCH + timedelta(seconds=ask.at))
        line = self._groups.setdefault(ask.key, deque())
        # what was lost with its worker comes back older than what waits
        if line and line[0][0].created_at > head.created_at:
            line.appendleft((head, ask.steps))
        else:
            line.append((head, ask.steps))

    def give(self, workers: list[SimWorker], now: float) -> list[tuple[int, int]]:
        if not self._groups:
            return []
        room = sum(worker.room(now) for worker in workers)
        if not room:
            return []
        views = tuple(
            worker.view(str(number), now) for number, worker in enumerate(workers) if now >= worker.down_until
        )
        groups = []
        for key, line in self._groups.items():
            front = tuple(islice(line, min(room, HEADS)))
            steps = sum(steps for _, steps in front) / len(front)
            groups.append(Group(key=key, heads=tuple(head for head, _ in front), steps=steps))
        made = plan(
            Snapshot(groups=tuple(groups), workers=views, ledger=self._ledger, foresee=0),
            EPOCH + timedelta(seconds=now),
        )
        self._ledger = made.ledger
        given = {item.job_id for item in made.assignments}
        for group in groups:
            line = self._groups[group.key]
            while line and line[0][0].id in given:
                line.popleft()
            if not line:
                del self._groups[group.key]
        return [(int(item.job_id), int(item.worker_id)) for item in made.assignments]


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
