"""Strengths that change during a run act at the very step that the tag names, on picture and text alike."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageChops
from torch import Tensor, nn

from farm.lora.patcher import Patcher
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import load as load_adapter
from farm.models.load import LoadedModel, load
from farm.models.pipeline_machine import PipelineMachine
from farm.models.sampler import SampleSpec, SampleState, StepMachine
from tests.contract.test_samplers import CLASSES
from tests.support.patching import make_plan
from tests.support.tiny import tiny_lora, tiny_sd15, tiny_sdxl

CURVE = (0.2, 0.2, 0.9, 0.9, 0.9)
SWITCH = 2


class Bench:
    """A tiny model with a real patcher and a random adapter, `a`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lora = tiny_lora(folder / "lora.safetensors", folder, seed=3)
        self.model: LoadedModel = load(folder)
        self.patcher = Patcher(self.model.modules, self.model.layout, pristine="device")
        self.machine = StepMachine(self.model, self.patcher)
        self.adapters = {"a": load_adapter(self.lora, self.model.layout)}

    def begin(self, spec: SampleSpec, curve: tuple[float, ...] | float) -> SampleState:
        return self.machine.begin(spec, make_plan(self.model.layout, spec.steps, a=curve), self.adapters)

    def run(self, state: SampleState, steps: int = 99) -> list[Tensor]:
        """Take `steps` steps, or all that are left; return the latents after each."""
        seen: list[Tensor] = []
        while not state.done and len(seen) < steps:
            self.machine.step([state])
            seen.append(state.latents.clone())
        return seen


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    make = {"sd15": tiny_sd15, "sdxl": tiny_sdxl}[request.param]
    return Bench(make(tmp_path_factory.mktemp("models") / request.param))


def spec_of(sampler: str) -> SampleSpec:
    return SampleSpec(
        prompt="a red fox",
        negative_prompt="blue",
        width=64,
        height=64,
        steps=len(CURVE),
        guidance_scale=4.0,
        sampler=sampler,
        seeds=(5,),
    )


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m", "heun", "unipc"])
def test_a_switched_run_is_two_constant_runs_stitched_together(bench: Bench, sampler: str) -> None:
    before = bench.patcher.fingerprint()
    spec = spec_of(sampler)
    switched = bench.run(bench.begin(spec, CURVE))

    low, high = bench.begin(spec, CURVE[0]), bench.begin(spec, CURVE[-1])
    stitched = bench.run(low, SWITCH)
    stitched += bench.run(replace(low, plan=high.plan, prompts=high.prompts))
    assert len(stitched) == len(CURVE)
    for mine, theirs in zip(switched, stitched, strict=True):
        assert torch.equal(mine, theirs)

    constant = bench.run(bench.begin(spec, CURVE[0]))
    assert torch.equal(constant[SWITCH - 1], switched[SWITCH - 1])
    assert not torch.allclose(constant[SWITCH], switched[SWITCH], atol=1e-2)
    bench.patcher.restore()
    assert bench.patcher.fingerprint() == before


def test_runs_that_take_turns_do_not_disturb_each_other(bench: Bench) -> None:
    """Two jobs with other curves, step by step in turns and one of them moved to another machine on the way."""
    curves = (CURVE, (1.0, -0.5, 0.0, 0.3, 0.3))
    alone = [bench.run(bench.begin(spec_of("dpmpp_2m"), curve))[-1] for curve in curves]
    states = [bench.begin(spec_of("dpmpp_2m"), curve) for curve in curves]
    for step in range(len(CURVE)):
        bench.machine.step(states)
        if step == 1:
            other = Bench(bench.folder)
            data = states[1].save()
            away = SampleState.restore(data, other.machine, other.adapters)
    other.run(away)
    assert torch.equal(states[0].latents, alone[0])
    assert torch.equal(states[1].latents, alone[1])
    assert torch.equal(away.latents, alone[1])


@pytest.mark.parametrize("sampler", ["euler_a", "heun"])
def test_a_switch_is_the_one_that_diffusers_makes_when_its_weights_are_changed_by_hand(
    bench: Bench, sampler: str
) -> None:
    spec = spec_of(sampler)
    mine = bench.run(bench.begin(spec, CURVE))[-1]
    theirs = ByHand(bench, spec).run()
    torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(bench.run(bench.begin(spec, 0.0))[-1], theirs, atol=1e-2)


@pytest.mark.parametrize(("sampler", "guidance_scale"), [("euler_a", 4.0), ("heun", 4.0), ("unipc", 1.0)])
def test_the_pipeline_that_runs_its_own_loop_makes_the_same_pictures(
    bench: Bench, sampler: str, guidance_scale: float
) -> None:
    spec = replace(spec_of(sampler), seeds=(5, 6), guidance_scale=guidance_scale)
    state = bench.begin(spec, CURVE)
    mine = bench.run(state)
    pipeline: Any = DiffusionPipeline.from_pretrained(bench.folder, local_files_only=True)
    modules = {name: getattr(pipeline, name) for name in bench.model.modules}
    patcher = Patcher(modules, bench.model.layout, pristine="device")
    machine = PipelineMachine(replace(bench.model, pipeline=pipeline), patcher)
    theirs = machine.begin(spec, state.plan, bench.adapters)
    for step, latents in enumerate(mine, start=1):
        machine.step([theirs])
        assert (theirs.step, theirs.done) == (step, step == spec.steps)
        assert torch.equal(latents, theirs.latents)
    for left, right in zip(bench.machine.finish(state), machine.finish(theirs), strict=True):
        assert isinstance(left, Image.Image)
        assert isinstance(right, Image.Image)
        assert max(high for _, high in ImageChops.difference(left, right).getextrema()) <= 1


class ByHand:
    """diffusers' pipeline, whose weights are set from outside between its model calls: W + strength · B·A."""

    def __init__(self, bench: Bench, spec: SampleSpec) -> None:
        self.spec = spec
        self.pipeline: Any = DiffusionPipeline.from_pretrained(bench.folder, local_files_only=True)
        self.pipeline.set_progress_bar_config(disable=True)
        name, fields = CLASSES[spec.sampler]
        config = self.pipeline.scheduler.config
        self.pipeline.scheduler = getattr(diffusers, name).from_config(config, **fields)
        self.order = self.pipeline.scheduler.order
        self.layers = list(self._layers(bench))

    def _layers(self, bench: Bench) -> Any:
        from safetensors.torch import load_file

        tensors: Mapping[str, Tensor] = load_file(bench.lora)
        two = hasattr(self.pipeline, "text_encoder_2")
        prefixes = {"lora_unet": "unet", "lora_te1" if two else "lora_te": "text_encoder"}
        if two:
            prefixes["lora_te2"] = "text_encoder_2"
        for prefix, component in prefixes.items():
            for name, module in getattr(self.pipeline, component).named_modules():
                level = "" if component == "unet" else "text_model_"
                key = f"{prefix}_{level}{name.removeprefix('text_model.').replace('.', '_')}"
                if f"{key}.lora_up.weight" in tensors:
                    up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
                    yield module, module.weight.detach().clone(), up @ down

    def _set(self, strength: float) -> None:
        for module, pristine, delta in self.layers:
            assert isinstance(module, nn.Linear)
            module.weight.data.copy_(pristine + strength * delta)

    def _prompts(self, strength: float) -> dict[str, Tensor]:
        """Return what the loop holds at this strength: the negative half and the positive half."""
        self._set(strength)
        found = self.pipeline.encode_prompt(
            self.spec.prompt,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=self.spec.negative_prompt,
        )
        held = {"prompt_embeds": torch.cat([found[1], found[0]])}
        if len(found) == 4:
            held["add_text_embeds"] = torch.cat([found[3], found[2]])
        return held

    @torch.no_grad()
    def run(self) -> Tensor:
        held = {strength: self._prompts(strength) for strength in set(CURVE)}

        def between(_: Any, call: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
            step = min((call + 1) // self.order, len(CURVE) - 1)
            self._set(CURVE[step])
            return {**values, **held[CURVE[step]]}

        self._set(CURVE[0])
        found = self.pipeline(
            self.spec.prompt,
            negative_prompt=self.spec.negative_prompt,
            generator=torch.Generator().manual_seed(self.spec.seeds[0]),
            width=self.spec.width,
            height=self.spec.height,
            num_inference_steps=self.spec.steps,
            guidance_scale=self.spec.guidance_scale,
            callback_on_step_end=between,
            callback_on_step_end_tensor_inputs=["latents", *held[CURVE[0]]],
            output_type="latent",
        )
        latents: Tensor = found.images
        return latents


def test_a_plan_without_adapters_leaves_the_weights_alone(bench: Bench) -> None:
    bench.patcher.restore()
    before = bench.patcher.fingerprint()
    state = bench.machine.begin(spec_of("euler"), StrengthPlan(steps=len(CURVE)), {})
    bench.run(state)
    assert bench.patcher.fingerprint() == before
