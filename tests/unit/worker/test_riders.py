"""The table of running jobs, step by step and without threads: who joins, who leaves, what one's trouble means for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from farm.errors import Permanent
from farm.lora.tensors import load as load_adapter
from farm.models.load import LoadedModel, load
from farm.models.sampler import Diverged, SampleSpec
from farm.worker.batching import Gains
from farm.worker.device import pick_device
from farm.worker.held import Hands, HeldJob, Interrupted
from farm.worker.kit import Kit
from farm.worker.line import Turn
from farm.worker.memory import AdapterCache, ModelCache
from farm.worker.models import HotModel
from farm.worker.prepare import Prepared
from farm.worker.progress import Progress
from farm.worker.rates import Rates
from farm.worker.resume import Resumer
from farm.worker.ride import Ride
from farm.worker.riders import Riders
from farm.worker.way import LoraWay
from tests.support.patching import make_plan
from tests.support.tiny import tiny_lora, tiny_sd15
from tests.unit.worker.fakes import ManualClock

STEPS = 4
#: the adapters of five jobs, each with its curve
CURVES: tuple[dict[str, Any], ...] = (
    {"a": (0.2, 0.2, 0.9, 0.9)}, {"b": 0.7}, {}, {"a": -0.4, "b": (0.3, 0.0, 0.0, 0.5)}, {"a": 0.5},
)  # fmt: skip


class Kept:
    """Checkpoints that were taken."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int]] = []

    def keep(self, held: HeldJob, data: bytes, step: int) -> None:
        self.kept.append((held.id, step))


class Table:
    """Riders with a real model and nothing else real."""

    def __init__(self, folder: Path, loaded: LoadedModel, adapters: dict[str, Any], **fields: Any) -> None:
        clock, device = ManualClock(), pick_device("cpu")
        tree: Any = SimpleNamespace(path=folder, close=lambda: None)
        self.hot = HotModel(loaded, tree, device, clock, way=fields.get("way", LoraWay()))
        models: ModelCache[HotModel] = ModelCache(1)
        models.get("m", lambda: self.hot)
        self._loaded, self._adapters = loaded, adapters
        #: jobs of each forward pass; what a test does before one
        self.sizes: list[int] = []
        self.before: Callable[[Sequence[Any]], None] = lambda states: None
        self.keeper = Kept()
        self.gains = Gains(fields.get("limit", 8), measured=False)
        keeper: Any = self.keeper
        self.riders = Riders(
            Kit(
                effects=SimpleNamespace(step=self._step),  # type: ignore[arg-type]
                device=device, models=models, adapters=AdapterCache(0, 0), hands=Hands(clock),
                progress=Progress("test", lambda event: None, lambda job, data: None, lambda picture: b""),
                rates=Rates(), gains=self.gains, clock=clock,
                resumer=Resumer(keeper, device, clock, seconds=0, compiled=False), preview_every=1,
                way=fields.get("way", LoraWay()), compiled=False,
            )
        )  # fmt: skip

    def _step(self, machine: Any, states: Any) -> None:
        self.before(states)
        machine.step(states)
        self.sizes.append(len(states))

    def job(self, number: int, *, key: str = "k", count: int = 1, **fields: Any) -> Turn:
        """A turn of a prepared job; its seeds begin at ten times its number."""
        curves = fields.pop("curves", CURVES[number])
        spec = SampleSpec(
            **{
                "prompt": "a red fox",
                "width": 64,
                "height": 64,
                "steps": STEPS,
                "guidance_scale": 4.0,
                "sampler": "euler_a",
                "seeds": tuple(range(10 * number, 10 * number + count)),
                **fields,
            }
        )
        job: Any = SimpleNamespace(
            model=SimpleNamespace(key="m"),
            batch_key=key,
            broken_off=False,
            spec=SimpleNamespace(total_steps=spec.steps),
        )
        work = Prepared(
            job=job, held=HeldJob(f"job{number}", 1), spec=spec, plan=make_plan(self._loaded.layout, spec.steps, **curves),
            second_plan=None, adapters={name: self._adapters[name] for name in curves}, warnings=(), pins=ExitStack(),
        )  # fmt: skip
        return Turn(ride=Ride(self.riders._kit, work, lambda: pytest.fail("it is loaded"), None))

    def begin(self, *turns: Turn) -> None:
        """Let these begin now; each must be allowed to."""
        for turn in turns:
            assert turn.ride is not None
            assert self.riders.may_join(turn.ride)
            self.riders.begin(turn, turn.ride)

    def run(self, *turns: Turn) -> None:
        """Begin these, and step until all have ended."""
        self.begin(*turns)
        while len(self.riders):
            self.riders.step()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load(folder)


@pytest.fixture(scope="module")
def adapters(folder: Path, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    where = tmp_path_factory.mktemp("adapters")
    files = {name: tiny_lora(where / name, folder, seed, scale=2.0) for seed, name in enumerate("ab")}
    return {name: load_adapter(path, loaded.layout, sha256=name) for name, path in files.items()}


@pytest.fixture
def table(folder: Path, loaded: LoadedModel, adapters: dict[str, Any]) -> Any:
    made = Table(folder, loaded, adapters)
    yield made
    made.hot.patcher.release()


@pytest.fixture(scope="module")
def alone(folder: Path, loaded: LoadedModel, adapters: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """The picture of each job by itself, adapters written into the weights."""
    table = Table(folder, loaded, adapters, way=LoraWay(mode="patch"))
    turns = [table.job(n) for n in range(len(CURVES))]
    for turn in turns:
        table.run(turn)
    table.hot.patcher.release()
    return [pixels(turn) for turn in turns]


def pixels(turn: Turn) -> np.ndarray[Any, Any]:
    assert turn.error is None, turn.error
    return np.array([np.asarray(picture, dtype=int) for picture in turn.result])


def assert_alike(turns: Sequence[Turn], alone: Sequence[np.ndarray[Any, Any]]) -> None:
    for turn in turns:
        assert turn.ride is not None
        number = turn.ride.work.spec.seeds[0] // 10
        assert np.abs(pixels(turn) - alone[number]).max() <= 1, number


def held(turn: Turn) -> HeldJob:
    assert turn.ride is not None
    return turn.ride.work.held


def test_jobs_join_at_any_border_and_leave_when_they_are_done(
    table: Table, alone: list[np.ndarray[Any, Any]]
) -> None:
    turns = [table.job(n) for n in range(5)]
    table.begin(turns[0])
    table.riders.step()
    table.begin(turns[1], turns[2])
    table.riders.step()
    table.begin(turns[3])
    table.riders.step()
    assert table.hot.patcher.mode == "branch"
    table.run(turns[4])
    # the first leaves after its fourth step, the next two with theirs, and so on
    assert table.sizes == [1, 3, 4, 5, 4, 2, 1]
    assert [held(turn).timings.shared_steps for turn in turns] == [3, 4, 4, 4, 3]
    assert_alike(turns, alone)


def test_what_befalls_one_befalls_no_other(table: Table, alone: list[np.ndarray[Any, Any]]) -> None:
    turns = [table.job(n) for n in range(5)]
    table.begin(*turns)
    table.riders.step()

    def trouble(states: Sequence[Any]) -> None:
        by_seed = {state.spec.seeds[0]: state for state in states}
        if 10 in by_seed:
            by_seed[10].latents.fill_(torch.nan)
        if 20 in by_seed and by_seed[20].step == 2:
            raise RuntimeError("shapes do not match")

    table.before = trouble
    held(turns[3]).cancel = True
    while len(table.riders):
        table.riders.step()
    assert isinstance(turns[1].error, Diverged)
    assert turns[1].error.message == "adapter b gave NaN at step 2 of 4"
    assert isinstance(turns[2].error, RuntimeError)
    assert isinstance(turns[3].error, Interrupted)
    assert turns[3].error.reason == "cancelled"
    assert_alike([turns[0], turns[4]], alone)
    assert all(turn.ended.is_set() for turn in turns)


def test_without_memory_half_waits_aside_and_goes_on_from_its_step(
    table: Table, alone: list[np.ndarray[Any, Any]]
) -> None:
    turns = [table.job(n) for n in range(5)]

    def tight(states: Sequence[Any]) -> None:
        if len(states) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.")

    table.begin(*turns)
    table.before = tight
    while len(table.riders):
        table.riders.step()
    # 5 do not fit, nor do 3; two go on, then two of those aside, then the last
    assert table.sizes == [2] * 4 + [2] * 4 + [1] * 4
    assert table.gains.useful("k", mixed=True, now=0) == 2
    assert_alike(turns, alone)


def test_one_aside_is_cancelled_where_it_waits(table: Table, alone: list[np.ndarray[Any, Any]]) -> None:
    turns = [table.job(n) for n in range(2)]
    table.begin(*turns)

    def tight(states: Sequence[Any]) -> None:
        held(turns[1]).cancel = True
        if len(states) > 1:
            raise torch.OutOfMemoryError("no memory")

    table.before = tight
    while len(table.riders):
        table.riders.step()
    assert isinstance(turns[1].error, Interrupted)
    assert_alike(turns[:1], alone)


def test_a_lone_job_without_memory_begins_again_in_halves_and_then_fails(table: Table) -> None:
    few, many = table.job(2, count=4), table.job(2, count=4)
    most = 2

    def tight(states: Sequence[Any]) -> None:
        if sum(len(state.generators) for state in states) > most:
            raise torch.OutOfMemoryError("no memory")

    table.before = tight
    table.run(few)
    assert len(few.result) == 4
    assert table.sizes == [1] * 8
    most = 1
    table.run(many)
    assert isinstance(many.error, Permanent)
    assert many.error.code == "out_of_memory"


def test_who_has_no_room_to_begin_or_decode_waits_until_it_is_alone(
    table: Table, alone: list[np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [table.job(n) for n in range(3)]
    machine: Any = table.hot.machine
    begin, finish = machine.begin, machine.finish

    def guarded(act: Callable[..., Any], seed: int) -> Callable[..., Any]:
        def call(first: Any, *rest: Any) -> Any:
            seeds = first.seeds if isinstance(first, SampleSpec) else first.spec.seeds
            if seeds[0] == seed and len(table.riders._active) > 1:
                raise torch.OutOfMemoryError("no memory")
            return act(first, *rest)

        return call

    monkeypatch.setattr(machine, "begin", guarded(begin, 10))
    monkeypatch.setattr(machine, "finish", guarded(finish, 0))
    table.begin(turns[0])
    table.riders.step()
    table.begin(turns[2], turns[1])
    while len(table.riders):
        table.riders.step()
    assert table.sizes == [1, 2, 2, 2, 1, 1, 1, 1, 1]
    assert_alike(turns, alone)


def test_nobody_joins_while_others_wait_aside(table: Table) -> None:
    first, second, third = (table.job(n) for n in range(3))
    table.begin(first, second)
    table.before = lambda states: pytest.fail("too many") if len(states) > 2 else None
    table.riders._put_aside(table.riders._active[1:])
    assert third.ride is not None
    assert not table.riders.may_join(third.ride)


def test_a_text_of_another_length_waits_for_its_turn(table: Table) -> None:
    long = table.job(2, prompt="fox " * 90)
    table.begin(table.job(0), long)
    while len(table.riders):
        table.riders.step()
    assert table.sizes == [1] * 8
    assert len(long.result) == 1


def test_a_drain_and_an_order_to_give_way_save_each_job(table: Table) -> None:
    turns = [table.job(n) for n in range(3)]
    table.begin(*turns)
    table.riders.step()
    held(turns[0]).hand_back = True
    held(turns[1]).give_way = True
    table.riders.step()
    assert table.keeper.kept == [("job0", 2), ("job1", 2)]
    assert [getattr(turn.error, "reason", None) for turn in turns] == ["drained", "preempted", None]
    assert len(table.riders) == 1


def test_jobs_of_other_keys_or_patched_ones_do_not_join(
    folder: Path, loaded: LoadedModel, adapters: dict[str, Any]
) -> None:
    table = Table(folder, loaded, adapters, way=LoraWay(mode="patch"))
    table.begin(table.job(1))
    for stranger in (table.job(1, key="other"), table.job(2)):
        assert stranger.ride is not None
        assert not table.riders.may_join(stranger.ride)
    # the same weights at every step
    table.begin(table.job(4, curves={"b": 0.7}))
    table.riders.step()
    assert table.sizes == [2]
    table.hot.patcher.release()
