"""Jobs that share forward passes with adapters, strengths and curves of their own: each is what it is alone.

The judge is the same job alone, with its adapters written into the weights: no branch, no neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from farm.lora.branch import SideBranch
from farm.lora.patcher import Patcher
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import load as load_adapter
from farm.models.load import LoadedModel, load
from farm.models.sampler import Diverged, SampleSpec, SampleState, StepMachine
from tests.support.dit import Lora, loaded, spec_of
from tests.support.patching import make_plan
from tests.support.tiny import tiny_sd15
from tests.support.tiny_dit import BUILDERS, tiny_wan
from tests.unit.lora.make import kohya, lora_tensors, rand

STEPS = 4
#: relative, in float32: a batch makes the hardware add in another order
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


@dataclass(frozen=True)
class Job:
    spec: SampleSpec
    plan: StrengthPlan
    adapters: Mapping[str, Any]


class Bench:
    """One model, sampled job by job with patched weights, and together with branches."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.branch = SideBranch(model.modules, model.layout)
        self.together = StepMachine(model, self.branch)
        self._patcher = Patcher(model.modules, model.layout)
        self._alone = StepMachine(model, self._patcher)

    def alone(self, job: Job) -> Tensor:
        """The latents of a job by itself."""
        self.branch.restore()
        state = self._alone.begin(job.spec, job.plan, job.adapters)
        while not state.done:
            self._alone.step([state])
        self._patcher.restore()
        return state.latents

    def begin(self, job: Job) -> SampleState:
        return self.together.begin(job.spec, job.plan, job.adapters)

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """Rows of each forward pass of the first denoiser."""
        rows: list[int] = []
        module = self.model.modules[self.model.layout.denoisers[0]]

        def look(_: Any, args: Any, options: Any) -> None:
            rows.append(len(args[0] if args else options["hidden_states"]))

        hook = module.register_forward_pre_hook(look, with_kwargs=True)
        yield rows
        hook.remove()


FAMILIES = tuple(BUILDERS)
#: prompts differ in text, not in length: Qwen-Image shares no pass otherwise
PROMPTS = ("a red fox on the hill", "a big owl on the hill", "a red owl in the tree")
CURVES = ((0.2, 0.2, 0.9, 0.9), 0.7, (0.0, 1.0, 0.0, -0.5))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(load(tiny_sd15(tmp_path_factory.mktemp("models") / "sd15", family="sd1")))


@pytest.fixture(scope="module")
def adapters(sd15: Bench, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """LoRAs of the UNet, of the text encoder as well, a LoCon of convolutions, a LoHa; a DoRA, which has no branch."""
    folder = tmp_path_factory.mktemp("adapters")
    layout = sd15.model.layout
    layers = [layer for layer in layout.layers.values() if layer.component == "unet"]
    convs = [layer for layer in layers if layer.kind == "conv"][:6]
    linears = [layer for layer in layers if layer.kind == "linear"][:8]
    files: dict[str, dict[str, Tensor]] = {"locon": {}, "loha": {}, "dora": {}}
    for n, layer in enumerate(convs):
        files["locon"] |= {
            name: tensor * 0.5 for name, tensor in lora_tensors(layer, kohya(layer), seed=n).items()
        }
    for n, layer in enumerate(linears):
        (out, into), key = layer.shape, kohya(layer)
        for word, shape in (("w1_a", (out, 2)), ("w1_b", (2, into)), ("w2_a", (out, 2)), ("w2_b", (2, into))):
            files["loha"][f"{key}.hada_{word}"] = rand(*shape, seed=n) * 0.3
        files["dora"] |= lora_tensors(layer, key, seed=n) | {f"{key}.dora_scale": rand(out, 1) + 1}
    found: dict[str, Any] = {
        "lora": Lora(layout, ("unet",), 1, 0.3),
        "wide": Lora(layout, layout.components, 2, 0.3),
    }
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
        found[name] = load_adapter(folder / f"{name}.safetensors", layout, sha256=name)
    return found


def job_of(bench: Bench, adapters: Mapping[str, Any], number: int, family: str = "", **fields: Any) -> Job:
    """A job with the adapters that `fields` name, each with its curve."""
    curves = {name: fields.pop(name) for name in tuple(fields) if name in adapters}
    asked = {"prompt": PROMPTS[number % 3], "seeds": (number,), **fields}
    spec = spec_of(family, **asked) if family else unet_spec(**asked)
    plan = make_plan(bench.model.layout, spec.steps, **curves)
    return Job(spec, plan, {name: adapters[name] for name in curves})


def unet_spec(**fields: Any) -> SampleSpec:
    asked = {
        "prompt": "a red fox", "negative_prompt": "blue", "width": 64, "height": 64, "steps": STEPS, "guidance_scale": 4.0,
        "sampler": "euler",
    }  # fmt: skip
    return SampleSpec(**{**asked, **fields})


def assert_as_alone(bench: Bench, jobs: list[Job], states: list[SampleState]) -> None:
    for job, state in zip(jobs, states, strict=True):
        torch.testing.assert_close(state.latents, bench.alone(job), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_samples_jobs_of_different_adapters_in_one_pass(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = Bench(loaded(BUILDERS[family](tmp_path_factory.mktemp(family)), family))
    layout = bench.model.layout
    adapters = {name: Lora(layout, layout.components, n, 0.3) for n, name in enumerate("abc")}
    jobs = [
        job_of(bench, adapters, 1, family, a=CURVES[0]),
        job_of(bench, adapters, 2, family, b=CURVES[1], c=CURVES[2], seeds=(5, 6)),
        job_of(bench, adapters, 3, family),
    ]
    states = [bench.begin(job) for job in jobs]
    bench.together.step(states[:1])
    bench.together.step(states[1:2])
    with bench.counted() as rows:
        bench.together.step(states)
    # four pictures, with their negative prompts in the same pass or in another; Z-Image's first layers cannot mix
    assert rows == {"sd3": [8], "zimage": [2, 4, 2]}.get(family, [4, 4])
    while left := [state for state in states if not state.done]:
        bench.together.step(left)
    for state in states:
        assert (state.latents - states[2].latents).abs().max() > 1e-3 or state is states[2]
    assert_as_alone(bench, jobs, states)


def test_a_model_with_a_time_for_each_patch_keeps_jobs_apart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pipeline = tiny_wan(tmp_path_factory.mktemp("wan"), boundary=None, expand=True)
    bench = Bench(loaded(pipeline, "wan"))
    adapters = {name: Lora(bench.model.layout, ("transformer",), n, 0.3) for n, name in enumerate("ab")}
    jobs = [job_of(bench, adapters, 1, "wan", a=0.5), job_of(bench, adapters, 2, "wan", b=0.5)]
    states = [bench.begin(job) for job in jobs]
    while not states[0].done:
        bench.together.step(states)
    assert_as_alone(bench, jobs, states)


def test_joining_and_leaving_at_any_step_changes_nothing(sd15: Bench, adapters: Mapping[str, Any]) -> None:
    """LoRA, text encoder, LoCon and LoHa, constant and stepwise, samplers and guidance of their own."""
    jobs = [
        job_of(sd15, adapters, 1, lora=CURVES[0], sampler="heun"),
        job_of(sd15, adapters, 2, wide=(0.3, 0.3, 0.8, 0.8), locon=0.5, seeds=(8, 9)),
        job_of(sd15, adapters, 3, loha=CURVES[2], guidance_scale=1.0, sampler="dpmpp_2m", steps=4),
        job_of(sd15, adapters, 4),
        job_of(sd15, adapters, 5, lora=-0.6, loha=0.4, sampler="euler_a"),
    ]
    waiting = dict(enumerate(jobs))
    states: dict[int, SampleState] = {}
    passes = 0
    with sd15.counted() as rows:
        while waiting or any(not state.done for state in states.values()):
            if waiting:
                # beginning encodes texts under branches of its own, which must not disturb those that run
                number = min(waiting)
                states[number] = sd15.begin(waiting.pop(number))
            rows.clear()
            sd15.together.step([state for state in states.values() if not state.done])
            # Heun's second calls are passes more
            passes = max(passes, len(rows))
    assert passes == 2
    assert_as_alone(sd15, jobs, [states[n] for n in range(len(jobs))])


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_whoever_rides_with_whom_each_picture_is_its_own(
    sd15: Bench, adapters: Mapping[str, Any], data: Any
) -> None:
    """Random jobs join, pause and leave at random steps; some never come to their end."""
    strength = st.sampled_from([0.0, 0.4, -0.7, (0.2, 0.2, 0.9, 0.9), (0.0, 1.0, 0.0, 0.3)])
    chosen = st.dictionaries(st.sampled_from(["lora", "wide", "locon", "loha"]), strength, max_size=2)
    curves = data.draw(st.lists(chosen, min_size=2, max_size=4))
    jobs = [job_of(sd15, adapters, n, **each) for n, each in enumerate(curves)]
    states = [sd15.begin(job) for job in jobs]
    gone = data.draw(st.sets(st.sampled_from(range(len(jobs))), max_size=len(jobs) - 1))
    for _ in range(3):
        some = data.draw(st.lists(st.sampled_from(range(len(jobs))), unique=True, min_size=1))
        if riding := [states[n] for n in some if not states[n].done]:
            sd15.together.step(riding)
    stay = [n for n in range(len(jobs)) if n not in gone]
    while left := [states[n] for n in stay if not states[n].done]:
        sd15.together.step(left)
    assert_as_alone(sd15, [jobs[n] for n in stay], [states[n] for n in stay])


def test_what_breaks_one_does_not_break_the_others(sd15: Bench, adapters: Mapping[str, Any]) -> None:
    jobs = [job_of(sd15, adapters, n, **{name: 0.6}) for n, name in enumerate(("lora", "wide", "loha"))]
    states = [sd15.begin(job) for job in jobs]
    sd15.together.step(states)
    states[1].latents.fill_(torch.nan)
    with pytest.raises(Diverged, match="adapter wide gave NaN at step 2 of 4") as caught:
        sd15.together.step(states)
    assert caught.value.states == (states[1],)
    left = [states[0], states[2]]
    while not left[0].done:
        sd15.together.step(left)
    assert_as_alone(sd15, [jobs[0], jobs[2]], left)


def test_what_has_no_branch_is_refused_by_its_name(sd15: Bench, adapters: Mapping[str, Any]) -> None:
    assert "a change of type Dora cannot act beside" in sd15.branch.why_not({"dora": adapters["dora"]})
    assert sd15.branch.why_not({name: adapters[name] for name in ("lora", "wide", "locon", "loha")}) == ""


def test_where_weights_agree_patched_jobs_share_a_pass(sd15: Bench, adapters: Mapping[str, Any]) -> None:
    """What cannot act beside the layers still rides with its like."""
    patcher = Patcher(sd15.model.modules, sd15.model.layout)
    machine = StepMachine(sd15.model, patcher)
    jobs = [job_of(sd15, adapters, n, dora=0.8) for n in (1, 2)]
    sd15.branch.restore()
    states = [machine.begin(job.spec, job.plan, job.adapters) for job in jobs]
    with sd15.counted() as rows:
        while not states[0].done:
            machine.step(states)
    patcher.restore()
    assert rows == [4] * STEPS
    assert_as_alone(sd15, jobs, states)
