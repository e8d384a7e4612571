"""The step machine makes the pictures that diffusers' transformer pipelines make: same seed, same latents every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.schedule import StrengthPlan
from farm.models.clip import Clip
from farm.models.families import describe
from farm.models.load import LoadedModel
from farm.models.sampler import SampleSpec, SampleState, StepMachine
from tests.support.dit import loaded, spec_of, theirs
from tests.support.patching import NoPatcher
from tests.support.tiny_dit import BUILDERS, tiny_flux, tiny_sd3, tiny_wan, write

FAMILIES = tuple(BUILDERS)
#: a run without a negative prompt
UNGUIDED: dict[str, dict[str, Any]] = {
    "sd3": {"guidance_scale": 1.0},
    "flux1": {"true_cfg_scale": 1.0},
    "qwenimage": {"guidance_scale": 1.0},
    "zimage": {"guidance_scale": 0.0},
    "wan": {"guidance_scale": 1.0},
}


class Pair:
    """A family's pipeline, and the step machine over its modules."""

    def __init__(self, family: str, pipeline: Any) -> None:
        self.family = family
        self.pipeline = pipeline
        self.model: LoadedModel = loaded(pipeline, family)
        self.machine = StepMachine(self.model, NoPatcher())

    def begin(self, spec: SampleSpec) -> SampleState:
        return self.machine.begin(spec, StrengthPlan(steps=spec.steps), {})

    def run(self, spec: SampleSpec) -> SampleState:
        state = self.begin(spec)
        while not state.done:
            self.machine.step([state])
        return state

    def pixels(self, state: SampleState) -> np.ndarray:
        """Return what `finish` gives as bytes (n, [frames,] height, width, 3)."""
        found = self.machine.finish(state)
        return np.array([one.frames if isinstance(one, Clip) else one for one in found])

    def assert_equal(self, spec: SampleSpec, **more: Any) -> None:
        latents, images = theirs(self.pipeline, self.family, spec, **more)
        state = self.begin(spec)
        for step in range(1, spec.steps + 1):
            self.machine.step([state])
            assert state.step == step
            assert torch.equal(state.latents, latents[step - 1])
        expected = images.movedim(-3, -1).numpy() * 255
        assert np.abs(self.pixels(state) - expected).max() <= 0.51


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def get(family: str) -> Pair:
        if family not in made:
            made[family] = Pair(family, BUILDERS[family](tmp_path_factory.mktemp(family)))
        return made[family]

    return get


PairOf = Callable[[str], Pair]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seeds", [(7,), (1, 2)])
def test_same_seed_same_picture(pair_of: PairOf, family: str, seeds: tuple[int, ...]) -> None:
    pair_of(family).assert_equal(spec_of(family, seeds=seeds))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_without_guidance(pair_of: PairOf, family: str) -> None:
    pair_of(family).assert_equal(spec_of(family, **UNGUIDED[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_with_an_empty_negative_prompt_and_few_steps(pair_of: PairOf, family: str) -> None:
    pair_of(family).assert_equal(spec_of(family, negative_prompt="", steps=2))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_with_the_other_sampler(pair_of: PairOf, family: str) -> None:
    """UniPC over flows where the model's own is Euler, and Euler where it is UniPC."""
    pair = pair_of(family)
    own = pair.pipeline.scheduler
    shift = own.config.get("shift", own.config.get("flow_shift"))
    if family == "wan":
        sampler, other = "flow_euler", diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        names = ("use_dynamic_shifting", "shift_terminal")
        sampler, other = (
            "unipc",
            diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=shift,
                **{name: own.config[name] for name in names},
            ),
        )
        # where the pipelines look for the line of the shift
        line = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        other.register_to_config(**{name: own.config[name] for name in line})
    pair.pipeline.scheduler = other
    # the pipeline would give a list, which this scheduler cannot shift
    more = {"sigmas": np.linspace(1, 0.25, 4)} if family == "zimage" else {}
    try:
        pair.assert_equal(spec_of(family, sampler=sampler), **more)
    finally:
        pair.pipeline.scheduler = own


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_makes_the_same_picture_as_the_pipeline_in_memory(
    pair_of: PairOf, tmp_path: Path, family: str
) -> None:
    folder = write(family, tmp_path)
    info = describe(folder)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    read = Pair(family, pipeline)
    assert (info.family, info.limits) == (family, read.model.info.limits)
    read.assert_equal(spec_of(family))
    # weights that lie elsewhere in memory may be added in another order
    found, expected = (pair.run(spec_of(family)).latents for pair in (read, pair_of(family)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_same_where_the_schedule_of_sd3_depends_on_the_size(tmp_path: Path) -> None:
    Pair("sd3", tiny_sd3(tmp_path, shifted=True)).assert_equal(spec_of("sd3"))


def test_same_without_the_third_text_encoder_of_sd3(tmp_path: Path) -> None:
    pipeline = tiny_sd3(tmp_path)
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    Pair("sd3", pipeline).assert_equal(spec_of("sd3"))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_in_half_precision(tmp_path: Path, family: str) -> None:
    pipeline = BUILDERS[family](tmp_path).to(torch.bfloat16)
    spec = spec_of(family)
    expected, _ = theirs(pipeline, family, spec)
    pair = Pair(family, pipeline)
    assert pair.model.dtype == torch.bfloat16
    state = pair.begin(spec)
    data = state.save()
    for latents in expected:
        pair.machine.step([state])
        assert state.latents.dtype == latents.dtype
        assert torch.equal(state.latents, latents)
    again = SampleState.restore(data, pair.machine)
    pair.machine.step([again])
    assert torch.equal(again.latents, expected[0])
    pair.machine.finish(state)


def test_same_where_flux_takes_no_guidance(tmp_path: Path) -> None:
    pair = Pair("flux1", tiny_flux(tmp_path, told=False))
    pair.assert_equal(spec_of("flux1", true_cfg_scale=1.0))


@pytest.mark.parametrize("fields", [{"boundary": None}, {"boundary": None, "expand": True}])
def test_same_with_one_wan_expert(tmp_path: Path, fields: dict[str, Any]) -> None:
    Pair("wan", tiny_wan(tmp_path, **fields)).assert_equal(spec_of("wan"))


def test_same_with_a_guidance_of_its_own_for_the_low_noise_expert(pair_of: PairOf) -> None:
    pair = pair_of("wan")
    pair.assert_equal(spec_of("wan", guidance_scale_2=2.0))
    latents = [pair.run(spec_of("wan", guidance_scale_2=scale)).latents for scale in (None, 2.0)]
    assert not torch.allclose(*latents, atol=1e-3)


def test_the_number_that_flux_is_told_counts(pair_of: PairOf) -> None:
    found = [pair_of("flux1").run(spec_of("flux1", guidance_scale=scale)).latents for scale in (1.0, 4.0)]
    assert not torch.allclose(*found, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_picture_of_a_batch_is_the_one_that_its_seed_makes_alone(pair_of: PairOf, family: str) -> None:
    pair = pair_of(family)
    batch = pair.run(spec_of(family, seeds=(11, 12)))
    alone = [pair.run(spec_of(family, seeds=(seed,))) for seed in (11, 12)]
    separate = torch.cat([state.latents for state in alone])
    torch.testing.assert_close(batch.latents, separate, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_jobs_join_and_leave_a_running_batch(pair_of: PairOf, family: str) -> None:
    """Jobs of other prompts, seeds, guidance, samplers, sizes and lengths stay what they are alone."""
    pair = pair_of(family)
    specs = [
        spec_of(family),
        spec_of(family, steps=3, prompt="a blue house", seeds=(5, 6), sampler="unipc"),
        spec_of(family, sampler="flow_euler", negative_prompt="", **UNGUIDED[family]),
        # as many latents as the others, the other way round
        spec_of(family, width=48, height=32),
    ]
    expected = [pair.run(spec).latents for spec in specs]
    together = [pair.begin(spec) for spec in specs]
    waiting = list(together)
    running: list[SampleState] = []
    while running or waiting:
        if waiting:
            running.append(waiting.pop(0))
        pair.machine.step(running)
        running = [state for state in running if not state.done]
    for state, latents in zip(together, expected, strict=True):
        torch.testing.assert_close(state.latents, latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_jobs_of_equal_shape_share_a_pass(pair_of: PairOf, family: str) -> None:
    """Two jobs cost as many passes as one."""
    pair = pair_of(family)
    passes: list[int] = []
    hooks = [
        pair.model.modules[name].register_forward_pre_hook(lambda *_: passes.append(1))
        for name in pair.model.layout.denoisers
    ]
    pair.machine.step([pair.begin(spec_of(family))])
    once = len(passes)
    pair.machine.step([pair.begin(spec_of(family)), pair.begin(spec_of(family, seeds=(8, 9)))])
    for hook in hooks:
        hook.remove()
    assert once == (1 if family in ("sd3", "zimage") else 2)
    assert len(passes) == 2 * once


@pytest.mark.parametrize("sampler", ["flow_euler", "unipc"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_restored_run_goes_on_bit_for_bit(pair_of: PairOf, family: str, sampler: str) -> None:
    pair = pair_of(family)
    state = pair.begin(spec_of(family, seeds=(3, 4), sampler=sampler))
    whole: list[Tensor] = []
    saved = [state.save()]
    while not state.done:
        pair.machine.step([state])
        whole.append(state.latents.clone())
        saved.append(state.save())
    for number, data in enumerate(saved[:-1]):
        again = SampleState.restore(data, pair.machine)
        assert (again.step, again.spec) == (number, state.spec)
        assert again.save() == data
        while not again.done:
            pair.machine.step([again])
            assert torch.equal(again.latents, whole[again.step - 1])
    assert np.array_equal(pair.pixels(again), pair.pixels(state))


def test_wan_makes_clips(pair_of: PairOf) -> None:
    pair = pair_of("wan")
    clips = pair.machine.finish(pair.run(spec_of("wan", steps=1, seeds=(1, 2))))
    assert [(type(clip), len(clip.frames), clip.fps) for clip in clips] == [(Clip, 5, 16.0)] * 2
    assert clips[0].frames[0].size == (32, 48)
    (slow,) = pair.machine.finish(pair.run(spec_of("wan", steps=1, fps=8.0)))
    assert slow.fps == 8.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_preview_shows_what_the_model_sees_in_the_noise(pair_of: PairOf, family: str) -> None:
    pair = pair_of(family)
    state = pair.begin(spec_of(family))
    first = pair.machine.preview(state)
    pair.machine.step([state])
    assert state.denoised is not None
    assert state.denoised.shape == state.latents.shape
    second = pair.machine.preview(state)
    assert second.size == first.size
    assert second.tobytes() != first.tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_model_sees_at_the_last_step_is_the_picture(pair_of: PairOf, family: str) -> None:
    state = pair_of(family).run(spec_of(family, sampler="flow_euler"))
    if family != "qwenimage":  # its schedule does not end at 0 before the last step
        torch.testing.assert_close(state.denoised, state.latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_colours_are_fitted_for_a_large_vae(
    pair_of: PairOf, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.models.preview.SMALL_VAE", 0)
    pair = pair_of(family)
    machine = StepMachine(pair.model, NoPatcher())
    assert min(machine.preview(pair.begin(spec_of(family))).size) >= 128


def test_what_does_not_suit_the_family_is_refused(pair_of: PairOf) -> None:
    flux, wan = pair_of("flux1"), pair_of("wan")
    with pytest.raises(
        BadRequest, match="Euler a does not fit a flux1 model, which predicts flow: one of Flow Euler, UniPC"
    ):
        flux.begin(spec_of("flux1", sampler="euler_a"))
    with pytest.raises(BadRequest, match=r"height 112 .*: a multiple of 4, at least 4, at most 96"):
        pair_of("sd3").begin(spec_of("sd3", height=112))
    with pytest.raises(BadRequest, match="9 frames do not suit tiny-flux1: it makes pictures"):
        flux.begin(spec_of("flux1", frames=9))
    with pytest.raises(BadRequest, match="6 frames do not suit tiny-wan: a multiple of 2 and one more"):
        wan.begin(spec_of("wan", frames=6))
    assert wan.begin(spec_of("wan", frames=None)).latents.shape[2] == 41  # 81 frames
    with pytest.raises(BadRequest, match="flow_euler cannot do 1 steps with this model: ask for more"):
        pair_of("qwenimage").begin(spec_of("qwenimage", steps=1))  # of diffusers' pipeline it is NaN
