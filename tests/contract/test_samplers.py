"""The step machine makes the pictures that diffusers' own pipelines make: same seed, same latents after every step."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from farm.lora.schedule import StrengthPlan
from farm.models.decode import decode
from farm.models.load import load
from farm.models.sampler import SampleSpec, SampleState, StepMachine
from farm.models.samplers import fits
from tests.support.patching import NoPatcher
from tests.support.tiny import tiny_sd15, tiny_sdxl

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
ZERO_SNR = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
SAMPLERS = fits("sd1")
STEPS = 4


class Pair:
    """A model in the step machine and the same in diffusers' pipeline."""

    def __init__(self, folder: Path) -> None:
        self.model = load(folder)
        self.machine = StepMachine(self.model, NoPatcher())
        self.pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        self.pipeline.set_progress_bar_config(disable=True)
        self.config = self.pipeline.scheduler.config

    def theirs(self, spec: SampleSpec) -> tuple[list[Tensor], Tensor]:
        """Return latents after every model call, and the pictures."""
        name, fields = CLASSES[spec.sampler]
        self.pipeline.scheduler = getattr(diffusers, name).from_config(self.config, **fields)
        latents: list[Tensor] = []

        def look(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents.append(values["latents"].clone())
            return values

        images = self.pipeline(
            spec.prompt,
            negative_prompt=spec.negative_prompt or None,
            num_images_per_prompt=len(spec.seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in spec.seeds],
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            callback_on_step_end=look,
            output_type="pt",
        ).images
        return latents, images

    def begin(self, spec: SampleSpec) -> SampleState:
        return self.machine.begin(spec, StrengthPlan(steps=spec.steps), {})

    def assert_equal(self, spec: SampleSpec) -> None:
        latents, images = self.theirs(spec)
        state = self.begin(spec)
        for step in range(1, spec.steps + 1):
            self.machine.step([state])
            assert state.step == step
            assert torch.equal(state.latents, latents[state.calls - 1])
        assert state.done
        assert state.calls == len(latents)
        # the latents are equal bit for bit; decoding one at a time instead of all at once rounds differently
        torch.testing.assert_close(decode(self.model, state.latents), images, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "sd15": tiny_sd15(root / "sd15"),
        "v_prediction": tiny_sd15(root / "v", **ZERO_SNR),
        "sdxl": tiny_sdxl(root / "sdxl"),
    }


@pytest.fixture(scope="module")
def pairs(folders: dict[str, Path]) -> dict[str, Pair]:
    return {name: Pair(folder) for name, folder in folders.items()}


def spec_of(sampler: str, **fields: Any) -> SampleSpec:
    asked = {
        "prompt": "a red fox on the hill",
        "negative_prompt": "blue house",
        "width": 72,
        "height": 64,
        "steps": STEPS,
        "guidance_scale": 5.0,
        "sampler": sampler,
        "seeds": (7,),
    }
    return SampleSpec(**{**asked, **fields})


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["sd15", "v_prediction", "sdxl"])
def test_same_seed_same_picture(pairs: dict[str, Pair], name: str, sampler: str) -> None:
    pairs[name].assert_equal(spec_of(sampler))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_batch(pairs: dict[str, Pair], sampler: str) -> None:
    pairs["sd15"].assert_equal(spec_of(sampler, seeds=(1, 2)))


def test_same_xl_batch(pairs: dict[str, Pair]) -> None:
    pairs["sdxl"].assert_equal(spec_of("euler_a", seeds=(1, 2)))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("fields", [{"guidance_scale": 1.0}, {"negative_prompt": ""}, {"steps": 1}])
def test_same_without_guidance_negative_or_further_steps(
    pairs: dict[str, Pair], name: str, fields: dict[str, Any]
) -> None:
    pairs[name].assert_equal(spec_of("dpmpp_2m", **fields))
    pairs[name].assert_equal(spec_of("heun", **fields))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_picture_of_a_batch_is_the_one_that_its_seed_makes_alone(
    pairs: dict[str, Pair], sampler: str
) -> None:
    pair = pairs["sd15"]
    batch = pair.begin(spec_of(sampler, seeds=(11, 12)))
    alone = [pair.begin(spec_of(sampler, seeds=(seed,))) for seed in (11, 12)]
    while not batch.done:
        pair.machine.step([batch])
        for state in alone:
            pair.machine.step([state])
    separate = torch.cat([state.latents for state in alone])
    torch.testing.assert_close(batch.latents, separate, atol=1e-4, rtol=1e-4)


def test_jobs_join_and_leave_a_running_batch(pairs: dict[str, Pair]) -> None:
    """Four jobs of other samplers, prompts, seeds, guidance and lengths share passes and stay what they are alone."""
    pair = pairs["sd15"]
    specs = [
        spec_of("heun", steps=3),
        spec_of("ddim", steps=4, prompt="a blue house", seeds=(5, 6)),
        spec_of("euler_a", steps=5, guidance_scale=1.0),
        spec_of("unipc", steps=4, negative_prompt=""),
    ]
    expected = []
    for spec in specs:
        state = pair.begin(spec)
        while not state.done:
            pair.machine.step([state])
        expected.append(state.latents)
    together = [pair.begin(spec) for spec in specs]
    running: list[SampleState] = []
    waiting = list(together)
    passes = 0
    while running or waiting:
        if waiting:
            running.append(waiting.pop(0))
        pair.machine.step(running)
        passes += 1
        running = [state for state in running if not state.done]
    assert passes == 7
    for state, latents in zip(together, expected, strict=True):
        torch.testing.assert_close(state.latents, latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [*(("sd15", sampler) for sampler in SAMPLERS), ("sdxl", "euler_a"), ("sdxl", "unipc")],
)
def test_a_restored_run_goes_on_bit_for_bit(pairs: dict[str, Pair], name: str, sampler: str) -> None:
    machine = pairs[name].machine
    state = pairs[name].begin(spec_of(sampler, seeds=(3, 4), steps=3))
    whole: list[Tensor] = []
    saved: list[bytes] = [state.save()]
    while not state.done:
        machine.step([state])
        whole.append(state.latents.clone())
        saved.append(state.save())
    for number, data in enumerate(saved[:-1]):
        again = SampleState.restore(data, machine)
        assert (again.step, again.spec) == (number, state.spec)
        assert again.save() == data
        while not again.done:
            machine.step([again])
            assert torch.equal(again.latents, whole[again.step - 1])
    assert machine.finish(again)[1].tobytes() == machine.finish(state)[1].tobytes()
