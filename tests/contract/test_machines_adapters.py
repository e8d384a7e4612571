"""Adapters of transformer families act as in diffusers, at the step that the tag names and on the expert that it names."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import load as load_adapter
from farm.models.sampler import SampleSpec, SampleState, StepMachine
from tests.support.dit import STEPS, Lora, loaded, spec_of, theirs
from tests.support.patching import NoPatcher, make_plan
from tests.support.tiny_dit import BUILDERS

FAMILIES = tuple(BUILDERS)
CURVE = (0.2, 0.2, 0.9, 0.9)
SWITCH = 2


class Bench:
    """A family's tiny model in the step machine, with a real patcher."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family = family
        self.pipeline: Any = BUILDERS[family](folder)
        self.model = loaded(self.pipeline, family)
        self.layout = self.model.layout
        self.patcher = Patcher(self.model.modules, self.layout, pristine="device")
        self.machine = StepMachine(self.model, self.patcher)

    def begin(self, spec: SampleSpec, plan: StrengthPlan, adapters: Mapping[str, Any]) -> SampleState:
        return self.machine.begin(spec, plan, adapters)

    def run(self, state: SampleState, steps: int = 99) -> list[Tensor]:
        """Take `steps` steps, or all that are left; return the latents after each."""
        seen: list[Tensor] = []
        while not state.done and len(seen) < steps:
            self.machine.step([state])
            seen.append(state.latents.clone())
        return seen

    def plain(self) -> list[Tensor]:
        return self.run(self.begin(spec_of(self.family), StrengthPlan(steps=STEPS), {}))


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def other(bench: Bench, tmp_path: Path) -> Any:
    """The same model again, for diffusers."""
    return BUILDERS[bench.family](tmp_path)


def everywhere(bench: Bench, seed: int = 0) -> Lora:
    return Lora(bench.layout, bench.layout.components, seed)


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_a_lora_is_what_diffusers_makes_of_the_same_file(
    bench: Bench, other: Any, strength: float, tmp_path: Path
) -> None:
    lora = Lora(bench.layout, ("transformer",))
    path = tmp_path / "lora.safetensors"
    save_file(lora.tensors(), path)
    adapter = load_adapter(path, replace(bench.layout, denoisers=("transformer",)))
    assert set(adapter.deltas) >= set(lora.factors)

    spec = spec_of(bench.family)
    mine = bench.run(bench.begin(spec, make_plan(bench.layout, STEPS, file=strength), {"file": lora}))
    other.load_lora_weights(lora.tensors(), adapter_name="file")
    other.set_adapters("file", strength)
    expected, _ = theirs(other, bench.family, spec)
    for mine_after, theirs_after in zip(mine, expected, strict=True):
        torch.testing.assert_close(mine_after, theirs_after, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(mine[-1], bench.plain()[-1], atol=3e-2)


def test_an_adapter_of_the_text_encoders_acts_as_changed_weights_do(bench: Bench, other: Any) -> None:
    lora = Lora(bench.layout, bench.layout.text_encoders)
    spec = spec_of(bench.family)
    mine = bench.run(bench.begin(spec, make_plan(bench.layout, STEPS, text=0.7), {"text": lora}))
    lora.write_into(other, 0.7)
    expected, _ = theirs(other, bench.family, spec)
    torch.testing.assert_close(mine[-1], expected[-1], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(mine[-1], bench.plain()[-1], atol=1e-3)


def test_a_switched_run_is_two_constant_runs_stitched_together(bench: Bench) -> None:
    bench.patcher.restore()
    before = bench.patcher.fingerprint()
    adapters, spec = {"all": everywhere(bench)}, spec_of(bench.family)
    plans = [make_plan(bench.layout, STEPS, all=curve) for curve in (CURVE, CURVE[0], CURVE[-1])]
    state = bench.begin(spec, plans[0], adapters)
    assert state.prompts.row_of_step == (0, 0, 1, 1)
    switched = bench.run(state)

    low, high = (bench.begin(spec, plan, adapters) for plan in plans[1:])
    stitched = bench.run(low, SWITCH)
    stitched += bench.run(replace(low, plan=high.plan, prompts=high.prompts))
    assert len(stitched) == STEPS
    for mine, joined in zip(switched, stitched, strict=True):
        assert torch.equal(mine, joined)

    constant = bench.run(bench.begin(spec, plans[1], adapters))
    assert torch.equal(constant[SWITCH - 1], switched[SWITCH - 1])
    assert not torch.allclose(constant[SWITCH], switched[SWITCH], atol=1e-3)
    bench.patcher.restore()
    assert bench.patcher.fingerprint() == before


def test_a_switch_is_the_one_that_diffusers_makes_when_its_weights_are_changed_by_hand(
    bench: Bench, other: Any
) -> None:
    """The denoisers alone, whose weights are changed from outside between the steps of the pipeline."""
    lora = Lora(bench.layout, bench.layout.denoisers)
    spec = spec_of(bench.family)
    mine = bench.run(bench.begin(spec, make_plan(bench.layout, STEPS, denoiser=CURVE), {"denoiser": lora}))[
        -1
    ]
    lora.write_into(other, CURVE[0])
    forward = other.scheduler.step
    taken: list[int] = []

    def step(*args: Any, **kwargs: Any) -> Any:
        taken.append(1)
        if len(taken) == SWITCH:
            lora.write_into(other, CURVE[-1] - CURVE[0])
        return forward(*args, **kwargs)

    other.scheduler.step = step
    expected, _ = theirs(other, bench.family, spec)
    torch.testing.assert_close(mine, expected[-1], atol=1e-3, rtol=1e-3)


def test_jobs_with_other_adapters_do_not_disturb_each_other(bench: Bench, tmp_path: Path) -> None:
    """Two jobs in turns, step by step, then in one call; one of them moves to another machine on the way."""
    adapters = {"one": everywhere(bench, 1), "two": everywhere(bench, 2)}
    spec = spec_of(bench.family)
    plans = [
        make_plan(bench.layout, STEPS, one=0.8),
        make_plan(bench.layout, STEPS, two=(1.0, -0.5, 0.0, 0.3)),
    ]
    alone = [bench.run(bench.begin(spec, plan, adapters))[-1] for plan in plans]
    states = [bench.begin(spec, plan, adapters) for plan in plans]
    away = None
    for step in range(STEPS):
        if step % 2:
            bench.machine.step(states)
        else:
            for state in states:
                bench.machine.step([state])
        if step == 1:
            away = states[1].save()
    assert torch.equal(states[0].latents, alone[0])
    assert torch.equal(states[1].latents, alone[1])

    assert away is not None
    second = Bench(bench.family, tmp_path)
    restored = SampleState.restore(away, second.machine, adapters)
    assert restored.step == 2
    second.run(restored)
    assert torch.equal(restored.latents, alone[1])


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench("wan", tmp_path_factory.mktemp("wan"))


def plan_of(bench: Bench, sha256: str, component: str, strength: float) -> StrengthPlan:
    """Return the plan of a tag that names one expert."""
    regions = [region for region in bench.layout.regions() if region.component == component]
    strengths = dict.fromkeys(regions, (strength,) * STEPS)
    return StrengthPlan(steps=STEPS, adapters=(AdapterSchedule(sha256=sha256, strengths=strengths),))


def test_an_adapter_of_the_low_noise_expert_leaves_the_first_steps_alone(wan: Bench, tmp_path: Path) -> None:
    spec, lora = spec_of("wan"), Lora(wan.layout, ("transformer_2",))
    plain = wan.plain()
    low = wan.run(wan.begin(spec, plan_of(wan, "low", "transformer_2", 1.0), {"low": lora}))
    high = wan.run(
        wan.begin(
            spec, plan_of(wan, "high", "transformer", 1.0), {"high": Lora(wan.layout, ("transformer",))}
        )
    )
    same = [torch.equal(mine, without) for mine, without in zip(low, plain, strict=True)]
    assert same == [True, True, False, False]
    assert not torch.equal(high[0], plain[0])

    other: Any = BUILDERS["wan"](tmp_path)
    other.load_lora_weights(lora.tensors(), adapter_name="a", load_into_transformer_2=True)
    expected, _ = theirs(other, "wan", spec)
    torch.testing.assert_close(low[-1], expected[-1], atol=1e-3, rtol=1e-3)


def test_only_the_expert_that_runs_is_patched(wan: Bench) -> None:
    patcher = NoPatcher()
    machine = StepMachine(wan.model, patcher)
    lora = Lora(wan.layout, wan.layout.denoisers)
    state = machine.begin(spec_of("wan"), make_plan(wan.layout, STEPS, both=CURVE), {"both": lora})
    patcher.asked.clear()
    ran: list[str] = []
    hooks = [
        wan.model.modules[name].register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name in wan.layout.denoisers
    ]
    while not state.done:
        machine.step([state])
    for hook in hooks:
        hook.remove()
    experts = ["transformer", "transformer", "transformer_2", "transformer_2"]
    assert patcher.asked == [(step, (expert,)) for step, expert in enumerate(experts, start=1)]
    assert ran == [expert for expert in experts for _ in range(2)]


def test_jobs_at_different_experts_take_passes_of_their_own(wan: Bench) -> None:
    spec = spec_of("wan")
    ahead = wan.begin(spec, StrengthPlan(steps=STEPS), {})
    alone = wan.plain()
    wan.run(ahead, 2)
    behind = wan.begin(spec, StrengthPlan(steps=STEPS), {})
    wan.machine.step([ahead, behind])
    assert torch.equal(ahead.latents, alone[2])
    assert torch.equal(behind.latents, alone[0])
