"""The step machine on its own: what it asks of the patcher, what it refuses, what it shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from farm.errors import BadRequest, Permanent
from farm.lora.schedule import StrengthPlan
from farm.models import preview
from farm.models.load import LoadedModel, load
from farm.models.preview import Previewer, to_webp
from farm.models.sampler import Diverged, SampleSpec, SampleState, StepMachine
from tests.support.patching import NoPatcher, make_plan
from tests.unit.models.test_encode import PICTURE, TEXT


@pytest.fixture(scope="module")
def model(sd15: Path) -> LoadedModel:
    return load(sd15)


@pytest.fixture
def machine(model: LoadedModel) -> StepMachine:
    return StepMachine(model, NoPatcher())


def spec_of(**fields: Any) -> SampleSpec:
    asked = {
        "prompt": "a red fox",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 3.0,
        "sampler": "euler",
        "seeds": (1,),
    }
    return SampleSpec(**{**asked, **fields})


def begin(machine: StepMachine, **fields: Any) -> SampleState:
    spec = spec_of(**fields)
    return machine.begin(spec, StrengthPlan(steps=spec.steps), {})


@contextmanager
def counting(module: torch.nn.Module) -> Iterator[list[int]]:
    """Collect the batch size of every forward pass."""
    sizes: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    hook.remove()


def test_weights_are_patched_before_each_step(machine: StepMachine) -> None:
    patcher = NoPatcher()
    machine = StepMachine(machine.model, patcher)
    plan = make_plan(machine.model.layout, 4, a=(0.1, 0.2, 0.3, 0.4))
    state = machine.begin(spec_of(sampler="heun"), plan, {"a": PICTURE})
    patcher.asked.clear()
    while not state.done:
        machine.step([state])
    assert patcher.asked == [(step, ("unet",)) for step in (1, 2, 3, 4)]


def test_states_share_a_pass_where_shape_and_strengths_agree(machine: StepMachine) -> None:
    plan = make_plan(machine.model.layout, 4, a=(0.5, 0.5, 0.9, 0.9))
    same = make_plan(machine.model.layout, 4, a=0.5)
    states = [
        machine.begin(spec_of(), plan, {"a": PICTURE}),
        machine.begin(spec_of(seeds=(2, 3)), same, {"a": PICTURE}),
        machine.begin(spec_of(guidance_scale=1.0), same, {"a": PICTURE}),
    ]
    with counting(machine.model.unet) as sizes:
        machine.step(states)
        machine.step(states)
        assert sizes == [7, 7]
        machine.step(states)
        assert sizes[2:] == [2, 5]
        wide = begin(machine, width=128)
        machine.step([states[1], wide])
        assert sizes[4:] == [4, 2]


def test_adapters_of_the_text_encoder_alone_do_not_part_a_batch(machine: StepMachine) -> None:
    first = machine.begin(spec_of(), make_plan(machine.model.layout, 4, a=0.5), {"a": TEXT})
    with counting(machine.model.unet) as sizes:
        machine.step([first, begin(machine)])
    assert sizes == [4]


def test_heun_takes_two_calls_a_step_but_one_in_the_last(machine: StepMachine) -> None:
    state = begin(machine, sampler="heun")
    with counting(machine.model.unet) as sizes:
        done = []
        while not state.done:
            machine.step([state])
            done.append((state.step, state.calls))
    assert done == [(1, 2), (2, 4), (3, 6), (4, 7)]
    assert len(sizes) == 7


def test_a_step_that_was_cut_short_goes_on_where_it_stopped(
    machine: StepMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = begin(machine, sampler="heun")
    machine.step([whole])
    state = begin(machine, sampler="heun")
    forward, calls = machine.model.unet.forward, []

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(machine.model.unet, "forward", fails_once)
    with pytest.raises(torch.OutOfMemoryError):
        machine.step([state])
    assert (state.step, state.calls) == (0, 1)
    restored = SampleState.restore(state.save(), machine)
    for again in (state, restored):
        machine.step([again])
        assert torch.equal(again.latents, whole.latents)


def test_nan_fails_the_job_that_it_happened_to(machine: StepMachine) -> None:
    plan = make_plan(machine.model.layout, 4, abcdef=1.0)
    broken = machine.begin(spec_of(), plan, {"abcdef": TEXT})
    healthy = begin(machine)
    broken.latents[0, 0, 0, 0] = torch.nan
    with pytest.raises(
        Diverged, match="adapter abcdef gave NaN at step 1 of 4: lower its strength"
    ) as caught:
        machine.step([healthy, broken])
    assert caught.value.states == (broken,)
    assert healthy.step == 1
    assert healthy.latents.isfinite().all()


def test_what_does_not_suit_the_model_is_refused(machine: StepMachine) -> None:
    with pytest.raises(BadRequest, match="width 60 does not suit sd15: a multiple of 8, at least 64"):
        begin(machine, width=60)
    with pytest.raises(BadRequest, match="height 32"):
        begin(machine, height=32)
    with pytest.raises(BadRequest, match="lcm cannot do 1001 steps"):
        begin(machine, sampler="lcm", steps=1001)
    with pytest.raises(ValueError, match="adapter a is planned but not loaded"):
        machine.begin(spec_of(), make_plan(machine.model.layout, 4, a=1.0), {})
    state = begin(machine, steps=1)
    with pytest.raises(ValueError, match="only 0 of 1 steps"):
        machine.finish(state)
    machine.step([state])
    with pytest.raises(ValueError, match="no step left"):
        machine.step([state])


def test_a_saved_state_holds_plan_and_prompts(machine: StepMachine) -> None:
    plan = make_plan(machine.model.layout, 4, a=(0.1, 0.2, 0.3, 1 / 3), b=-1.0)
    state = machine.begin(spec_of(seeds=(1, 2)), plan, {"a": TEXT, "b": PICTURE})
    again = SampleState.restore(state.save(), machine, {"a": TEXT, "b": PICTURE})
    assert again.plan == plan
    assert again.spec == state.spec
    assert again.prompts.row_of_step == (0, 1, 2, 3)
    assert torch.equal(again.prompts.at(3).positive.tokens, state.prompts.at(3).positive.tokens)


def test_a_state_of_another_model_or_version_is_refused(machine: StepMachine, sdxl: Path) -> None:
    data = begin(machine).save()
    with pytest.raises(Permanent, match="belongs to another base model"):
        SampleState.restore(data, StepMachine(load(sdxl), NoPatcher()))
    with pytest.raises(Permanent, match="another version of Farm"):
        SampleState.restore(data.replace(b'\\"version\\": 1', b'\\"version\\": 0'), machine)


def test_a_preview_shows_what_the_model_sees_in_the_noise(machine: StepMachine) -> None:
    state = begin(machine, seeds=(1, 2), width=128)
    first = machine.preview(state)
    assert first.size == (256, 128)
    machine.step([state])
    assert state.denoised is not None
    assert machine.preview(state).tobytes() != first.tobytes()
    data = to_webp(first)
    assert Image.open(BytesIO(data)).size == first.size


def test_a_large_vae_is_fitted_once(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "SMALL_VAE", 0)
    fits: list[int] = []
    fit = preview.fit_colours
    monkeypatch.setattr(preview, "fit_colours", lambda loaded: fits.append(1) or fit(loaded))
    previewer = Previewer(model)
    for _ in range(2):
        assert previewer.image(torch.randn(1, 4, 32, 32)).size == (128, 128)
    assert fits == [1]


def test_fitted_colours_are_those_of_a_vae_that_is_linear() -> None:
    """Latents that are the picture itself, mixed: the fit finds the mixture's inverse."""

    class Linear:
        config = type("Config", (), {"scaling_factor": 0.5, "force_upcast": False})()
        dtype = torch.float32
        mix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [1.0, 0.0, 3.0], [0.5, 0.5, 0.5]])

        def encode(self, picture: torch.Tensor) -> Any:
            small = torch.nn.functional.avg_pool2d(picture, 8)
            mean = torch.einsum("lc,bchw->blhw", self.mix, small)
            return type("Encoded", (), {"latent_dist": type("Dist", (), {"mean": mean})()})()

    vae = Linear()
    loaded: Any = type("Model", (), {"vae": vae, "scale": 8, "device": torch.device("cpu")})()
    colours = preview.fit_colours(loaded)
    picture = torch.rand(1, 3, 40, 24)
    latents = vae.encode(picture * 2 - 1).latent_dist.mean * 0.5
    expected = torch.nn.functional.avg_pool2d(picture, 8)
    torch.testing.assert_close(preview.apply_colours(colours, latents), expected, atol=1e-4, rtol=1e-4)
