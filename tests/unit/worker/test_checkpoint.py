"""A checkpoint as a file, and what has to agree before a job goes on from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from farm.errors import Permanent
from farm.lora.layout import Region
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.models.load import load
from farm.models.sampler import SampleSpec, SampleState, StepMachine
from farm.worker.checkpoint import Checkpoint, Facts, restore
from tests.support.patching import NoPatcher
from tests.support.tiny import tiny_sd15

SPEC = SampleSpec(
    prompt="a fox", width=64, height=64, steps=4, guidance_scale=5.0, sampler="dpmpp_2m", seeds=(1, 2, 3)
)
FACTS = Facts(model="m" * 64, device="cpu", dtype="float32", torch="2", diffusers="0", compiled=False)
PLAN = StrengthPlan(steps=4)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> StepMachine:
    folder: Path = tiny_sd15(tmp_path_factory.mktemp("models") / "small")
    return StepMachine(load(folder), NoPatcher())


def state(machine: StepMachine, *seeds: int, steps: int = 2) -> SampleState:
    begun = machine.begin(replace(SPEC, seeds=seeds), PLAN, {})
    for _ in range(steps):
        machine.step([begun])
    return begun


@pytest.fixture
def checkpoint(machine: StepMachine) -> Checkpoint:
    """The second of two parts is in work, and one picture is left."""
    return Checkpoint(
        facts=FACTS, mode="patch", finished=(state(machine, 1, steps=4).save(),), running=state(machine, 2).save(),
        second=False, seconds=1.5,
    )  # fmt: skip


def test_it_is_read_as_it_was_written(checkpoint: Checkpoint) -> None:
    assert Checkpoint.unpack(checkpoint.pack()) == checkpoint


def test_parts_come_back_with_what_is_left(checkpoint: Checkpoint, machine: StepMachine) -> None:
    back = restore(checkpoint.pack(), FACTS, machine, SPEC, (PLAN, None), {})
    assert [done.spec.seeds for done in back.finished] == [(1,)]
    assert (back.running.spec.seeds, back.running.step, back.left) == ((2,), 2, (3,))
    assert back.in_words() == "went on from step 2 of 4 of picture 2"
    assert back.running.save() == checkpoint.running


@pytest.mark.parametrize("name", ["model", "device", "dtype", "torch", "diffusers", "compiled"])
def test_bits_that_may_differ_are_refused_by_name(
    checkpoint: Checkpoint, machine: StepMachine, name: str
) -> None:
    other = replace(FACTS, **{name: True if name == "compiled" else "other"})
    with pytest.raises(Permanent, match=f"made elsewhere: {name} is "):
        restore(checkpoint.pack(), other, machine, SPEC, (PLAN, None), {})


def test_another_request_is_refused(checkpoint: Checkpoint, machine: StepMachine) -> None:
    data = checkpoint.pack()
    curve = {Region("unet", "down", 0): (0.1, 0.2, 0.3, 0.4)}
    tagged = StrengthPlan(steps=4, adapters=(AdapterSchedule(sha256="a" * 64, strengths=curve),))
    for spec, plan, said in (
        (replace(SPEC, guidance_scale=4.0), PLAN, "another request"),
        (replace(SPEC, prompt="a hen"), PLAN, "another request"),
        (replace(SPEC, seeds=(2, 1, 3)), PLAN, "other seeds"),
        (SPEC, tagged, "other strengths"),
    ):
        with pytest.raises(Permanent, match=said):
            restore(data, FACTS, machine, spec, (plan, None), {})


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\0" * 8])
def test_what_is_no_checkpoint_is_refused(data: bytes, machine: StepMachine) -> None:
    with pytest.raises(Permanent, match="its checkpoint"):
        restore(data, FACTS, machine, SPEC, (PLAN, None), {})
