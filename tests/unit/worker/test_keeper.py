"""The keeper: off the device's thread, only the newest checkpoint waits, an attempt that is over leaves nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from farm.errors import Transient
from farm.worker.held import Hands, HeldJob
from farm.worker.keeper import Keeper
from farm.worker.patience import Patience
from tests.unit.worker.fakes import ManualClock, effects


class World:
    """A store and a row."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.row: tuple[str, int] | None = None
        self.runs = True
        self.told: list[str] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.away = False

    def upload(self, key: str, data: bytes, media_type: str) -> str:
        self.entered.set()
        assert self.go.wait(60)
        if self.away:
            raise Transient("the store is away")
        self.objects[key] = data
        return "sha"

    def note_checkpoint(self, held: HeldJob, key: str, sha256: str, step: int) -> bool:
        if self.runs:
            self.row = (key, step)
        return self.runs

    def discard(self, key: str) -> None:
        self.objects.pop(key, None)

    def resumed(self, held: HeldJob, step: int, words: str) -> bool:
        self.told.append(words)
        return True


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def keeper(world: World) -> Iterator[Keeper]:
    names = ("upload", "note_checkpoint", "discard", "resumed")
    given: dict[str, Any] = {name: getattr(world, name) for name in names}
    clock = ManualClock()
    keeper = Keeper(effects(**given), Patience(hands=Hands(clock), clock=clock))
    keeper.start()
    yield keeper
    world.go.set()
    keeper.close()


@pytest.fixture
def held() -> HeldJob:
    return HeldJob("job_1", 2, owner_id="user_1", checkpoint="checkpoints/user_1/job_1/1/5.safetensors")


def test_a_slow_store_holds_nobody_and_only_the_newest_waits(
    keeper: Keeper, world: World, held: HeldJob
) -> None:
    world.go.clear()
    keeper.resumed(held, 5, "went on")
    for step in range(1, 9):
        keeper.keep(held, b"%d" % step, step)
        if step == 1:
            assert world.entered.wait(60)
    assert not keeper.settle(held, 0)
    world.go.set()
    assert keeper.settle(held, 60)
    assert world.told == ["went on"]
    assert world.row == ("checkpoints/user_1/job_1/2/2.safetensors", 8)
    # each one takes away the one before it
    assert world.objects == {"checkpoints/user_1/job_1/2/2.safetensors": b"8"}


def test_when_the_job_ends_its_checkpoint_goes(keeper: Keeper, world: World, held: HeldJob) -> None:
    keeper.keep(held, b"1", 1)
    assert keeper.settle(held, 60)
    keeper.ended(held)
    assert keeper.settle(held, 60)
    assert (world.objects, held.checkpoint) == ({}, None)


def test_of_an_attempt_that_is_over_nothing_stays(keeper: Keeper, world: World, held: HeldJob) -> None:
    world.runs = False
    before = held.checkpoint
    keeper.keep(held, b"1", 1)
    assert keeper.settle(held, 60)
    assert (world.objects, world.row, held.checkpoint) == ({}, None, before)


def test_a_store_that_is_away_costs_that_checkpoint_only(keeper: Keeper, world: World, held: HeldJob) -> None:
    world.away = True
    keeper.keep(held, b"1", 1)
    assert keeper.settle(held, 60)
    world.away = False
    keeper.keep(held, b"2", 2)
    assert keeper.settle(held, 60)
    assert list(world.objects.values()) == [b"2"]


def test_what_is_forgotten_is_not_stored(keeper: Keeper, world: World, held: HeldJob) -> None:
    other = HeldJob("job_2", 1, owner_id="user_1")
    world.go.clear()
    keeper.keep(other, b"1", 1)
    assert world.entered.wait(60)
    keeper.keep(held, b"2", 2)
    assert keeper.settle(held, 60, forget=True)
    world.go.set()
    assert keeper.settle(other, 60)
    assert list(world.objects) == ["checkpoints/user_1/job_2/1/1.safetensors"]
