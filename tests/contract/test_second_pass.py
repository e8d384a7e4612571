"""The second pass is diffusers' img2img over the enlarged latents: same noise, same latents after every step."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from torch import Tensor
from torch.nn.functional import interpolate

from farm.lora.schedule import StrengthPlan
from farm.models.hires import Hires
from farm.models.load import load
from farm.models.sampler import SampleSpec, SampleState, StepMachine
from farm.models.samplers import fits
from farm.models.second_pass import begin_second
from tests.contract.test_samplers import CLASSES, spec_of
from tests.support.patching import NoPatcher
from tests.support.tiny import tiny_sd15, tiny_sdxl

IMG2IMG: dict[str, Any] = {"sd15": StableDiffusionImg2ImgPipeline, "sdxl": StableDiffusionXLImg2ImgPipeline}
#: steps taken and strength, such that both sides' rounding agrees on the length of the schedule
RUNS = {(4, 0.5): 8, (3, 0.25): 12, (3, 1.0): 3}


class Pair:
    """A model in the step machine and the same in diffusers' img2img pipeline."""

    def __init__(self, folder: Path) -> None:
        self.machine = StepMachine(load(folder), NoPatcher())
        whole: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        parts = {name: part for name, part in whole.components.items() if name != "image_encoder"}
        self.pipeline = IMG2IMG[folder.name](**parts)
        self.pipeline.set_progress_bar_config(disable=True)
        self.config = self.pipeline.scheduler.config

    def first(self, spec: SampleSpec) -> SampleState:
        state = self.machine.begin(spec, StrengthPlan(steps=spec.steps), {})
        while not state.done:
            self.machine.step([state])
        return state

    def theirs(self, spec: SampleSpec, start: Tensor, steps: int, strength: float) -> list[Tensor]:
        """Return latents after every model call."""
        name, fields = CLASSES[spec.sampler]
        self.pipeline.scheduler = getattr(diffusers, name).from_config(self.config, **fields)
        latents: list[Tensor] = []

        def look(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents.append(values["latents"].clone())
            return values

        self.pipeline(
            spec.prompt,
            image=start,
            negative_prompt=spec.negative_prompt,
            num_images_per_prompt=len(spec.seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in spec.seeds],
            num_inference_steps=steps,
            strength=strength,
            guidance_scale=spec.guidance_scale,
            callback_on_step_end=look,
            output_type="latent",
        )
        return latents


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    root = tmp_path_factory.mktemp("models")
    return {"sd15": Pair(tiny_sd15(root / "sd15")), "sdxl": Pair(tiny_sdxl(root / "sdxl"))}


def assert_equal(pair: Pair, sampler: str, taken: int, strength: float, **fields: Any) -> None:
    hires = Hires(scale=1.5, steps=taken, strength=strength)
    spec = spec_of(sampler, steps=2, hires=hires, **fields)
    first = pair.first(spec)
    second = begin_second(pair.machine, first, StrengthPlan(steps=taken))
    assert (second.spec.width, second.spec.height, second.steps) == (104, 96, taken)
    # 72 x 64 enlarged by 1.5 is 108 x 96, and 108 is no multiple of 8
    start = interpolate(first.latents, size=(96 // 8, 104 // 8), mode="bilinear")
    expected = pair.theirs(second.spec, start, RUNS[taken, strength], strength)
    for step in range(1, taken + 1):
        pair.machine.step([second])
        assert second.step == step
        assert torch.equal(second.latents, expected[second.calls - 1])
    assert second.done
    assert second.calls == len(expected)
    assert pair.machine.finish(second)[0].size == (104, 96)


@pytest.mark.parametrize("sampler", fits("sd1"))
@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_second_pass_is_img2img(pairs: dict[str, Pair], name: str, sampler: str) -> None:
    assert_equal(pairs[name], sampler, 4, 0.5)


def test_a_batch_has_each_seeds_noise(pairs: dict[str, Pair]) -> None:
    assert_equal(pairs["sd15"], "euler_a", 4, 0.5, seeds=(1, 2))


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "unipc", "lcm"])
def test_a_restored_second_pass_goes_on_bit_for_bit(pairs: dict[str, Pair], sampler: str) -> None:
    pair = pairs["sd15"]
    first = pair.first(spec_of(sampler, steps=2, hires=Hires(scale=2, steps=3, strength=0.5)))
    state = begin_second(pair.machine, SampleState.restore(first.save(), pair.machine), StrengthPlan(steps=3))
    pair.machine.step([state])
    again = SampleState.restore(state.save(), pair.machine)
    assert (again.step, again.steps, again.spec.strength) == (1, 3, 0.5)
    while not state.done:
        pair.machine.step([state])
        pair.machine.step([again])
        assert torch.equal(again.latents, state.latents)


@pytest.mark.parametrize(("taken", "strength"), [(3, 0.25), (3, 1.0)])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m_karras"])
def test_other_strengths(pairs: dict[str, Pair], sampler: str, taken: int, strength: float) -> None:
    assert_equal(pairs["sd15"], sampler, taken, strength)
