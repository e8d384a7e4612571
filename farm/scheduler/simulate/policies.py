"""Who gets what: the farm's plan, and the peers it is compared with. All see the same fleet, window and rounds."""

from __future__ import annotations

import heapq
import random
from datetime import timedelta
from typing import Protocol

from farm.scheduler.facts import Snapshot
from farm.scheduler.group import front
from farm.scheduler.plan import plan
from farm.scheduler.share import Ledger
from farm.scheduler.simulate.trace import Ask
from farm.scheduler.simulate.waiting import EPOCH, Waiting
from farm.scheduler.simulate.world import SimFleet


class Policy(Protocol):
    """Keeps what waits; each round gives (job, worker) pairs."""

    def add(self, number: int, ask: Ask) -> None: ...

    def give(self, fleet: SimFleet, now: float) -> list[tuple[int, int]]: ...


class Farm:
    """The production plan; a round sees the front of each user's queue, as in production."""

    def __init__(self, seed: int):
        self._waiting = Waiting()
        self._ledger = Ledger()

    def add(self, number: int, ask: Ask) -> None:
        self._waiting.add(number, ask)

    def give(self, fleet: SimFleet, now: float) -> list[tuple[int, int]]:
        room = fleet.room()
        if not room or not self._waiting:
            return []
        snapshot = Snapshot(
            groups=self._waiting.groups(front(room, self._waiting.users)),
            workers=tuple(worker.view(str(number), now) for number, worker in fleet.up(now)),
            ledger=self._ledger,
            foresee=0,
        )
        made = plan(snapshot, EPOCH + timedelta(seconds=now))
        self._ledger = made.ledger
        given = [(int(item.job_id), int(item.worker_id)) for item in made.assignments]
        for worker_id, job_id in made.prefetch.items():
            fleet.workers[int(worker_id)].prefetch(self._waiting.need(int(job_id)), now)
        for number, _ in given:
            self._waiting.take(number)
        return given


class Fifo:
    """The oldest job of the most urgent class to the worker that is free first."""

    def __init__(self, seed: int):
        self._waiting: list[tuple[int, float, int]] = []

    def add(self, number: int, ask: Ask) -> None:
        heapq.heappush(self._waiting, (ask.key.priority, self._rank(ask), number))

    def _rank(self, ask: Ask) -> float:
        return ask.at

    def give(self, fleet: SimFleet, now: float) -> list[tuple[int, int]]:
        if not self._waiting:
            return []
        room = [
            (len(worker.open) + depth, worker.free_at, number)
            for number in fleet.roomy
            for worker in (fleet.workers[number],)
            for depth in range(worker.room())
        ]
        heapq.heapify(room)
        given = []
        while room and self._waiting:
            given.append((heapq.heappop(self._waiting)[2], heapq.heappop(room)[2]))
        return given


class Shortest(Fifo):
    """As first-come, but the job that samples shortest goes first."""

    def _rank(self, ask: Ask) -> float:
        return ask.seconds


class Random:
    """Any waiting job to any worker with room."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self._waiting: list[int] = []

    def add(self, number: int, ask: Ask) -> None:
        self._waiting.append(number)

    def give(self, fleet: SimFleet, now: float) -> list[tuple[int, int]]:
        if not self._waiting:
            return []
        room = [number for number in sorted(fleet.roomy) for _ in range(fleet.workers[number].room())]
        self._random.shuffle(room)
        given = []
        while room and self._waiting:
            place = self._random.randrange(len(self._waiting))
            self._waiting[place], self._waiting[-1] = self._waiting[-1], self._waiting[place]
            given.append((self._waiting.pop(), room.pop()))
        return given


POLICIES: dict[str, type[Farm] | type[Fifo] | type[Shortest] | type[Random]] = {
    "farm": Farm,
    "fifo": Fifo,
    "random": Random,
    "shortest": Shortest,
}
