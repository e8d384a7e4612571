"""Jobs on a pipeline that runs its own loop: in turns, dropped, refused, watched."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from farm.errors import BadRequest, Permanent
from farm.lora.layout import Layout
from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import load as load_adapter
from farm.models import loop_texts
from farm.models.clip import Clip
from farm.models.load import LoadedModel, load
from farm.models.pipeline_machine import PipelineMachine, PipelineState
from farm.models.sampler import Diverged, SampleSpec
from farm.models.samplers import fits
from tests.support.patching import NoPatcher, make_plan
from tests.support.tiny_pipelines import TINY, random_lora, write


class Anything:
    """Deltas of an adapter with a layer in every component."""

    def __init__(self, layout: Layout) -> None:
        self.deltas = {f"{component}.layer": None for component in layout.components}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(write("chroma", tmp_path_factory.mktemp("chroma")))


@pytest.fixture
def machine(model: LoadedModel) -> PipelineMachine:
    return PipelineMachine(model, NoPatcher())


def spec(**fields: Any) -> SampleSpec:
    asked: dict[str, Any] = {
        "prompt": "a red fox", "width": 32, "height": 48, "steps": 4, "guidance_scale": 3.0, "sampler": "flow_euler",
        "seeds": (5,),
    }  # fmt: skip
    return SampleSpec(**{**asked, **fields})


def begin(machine: PipelineMachine, **fields: Any) -> PipelineState:
    asked = spec(**fields)
    return machine.begin(asked, StrengthPlan(steps=asked.steps), {})


def run(machine: PipelineMachine, states: Sequence[PipelineState]) -> list[np.ndarray]:
    while not all(state.done for state in states):
        machine.step([state for state in states if not state.done])
    return [np.array(machine.finish(state)) for state in states]


def loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pipeline"]


def test_jobs_in_turns_do_not_disturb_each_other(machine: PipelineMachine) -> None:
    """Pipelines keep guidance and scheduler on themselves: each job has a pipeline object of its own."""
    asked = (
        {"guidance_scale": 1.0},
        {"guidance_scale": 6.0, "steps": 3, "sampler": "unipc", "seeds": (1, 2)},
    )
    alone = [run(machine, [begin(machine, **fields)])[0] for fields in asked]
    together = run(machine, [begin(machine, **fields) for fields in asked])
    for left, right in zip(alone, together, strict=True):
        assert np.array_equal(left, right)
    assert [len(pictures) for pictures in together] == [1, 2]


def test_dropped_jobs_leave_no_thread_and_no_tensors(tmp_path: Path) -> None:
    machine = PipelineMachine(load(write("ltxv", tmp_path)), NoPatcher())
    gone = []
    for number in range(50):
        state = begin(machine, width=32, height=32, frames=1, steps=2, seeds=(number,))
        machine.step([state])
        gone.append(weakref.ref(state.pipeline))
        del state
    gc.collect()
    for thread in loops():
        thread.join(20)
    assert loops() == []
    gc.collect()
    assert [ref for ref in gone if ref() is not None] == []
    assert torch.is_grad_enabled()


def test_weights_are_asked_for_before_each_step(model: LoadedModel) -> None:
    patcher = NoPatcher()
    machine = PipelineMachine(model, patcher)
    layout = model.layout
    text = {region: (1.0, 1.0, 2.0, 1.0) for region in layout.regions() if region.component == "text_encoder"}
    schedule = AdapterSchedule(sha256="a", strengths=text)
    state = machine.begin(spec(), StrengthPlan(steps=4, adapters=(schedule,)), {"a": Anything(layout)})
    assert patcher.asked == []
    run(machine, [state])
    every, encoder, denoiser = layout.components, layout.text_encoders, layout.denoisers
    # strength 1 was encoded by the pipeline itself, and comes back at step 4
    assert patcher.asked == [(1, every), (2, denoiser), (3, encoder), (3, denoiser), (4, denoiser)]


def test_a_pipeline_whose_loop_is_unknown_refuses_text_that_changes(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_texts, "HELD", {})
    machine = PipelineMachine(model, NoPatcher())
    adapters = {"a": Anything(model.layout)}
    plan = make_plan(model.layout, 4, a=(1.0, 1.0, 2.0, 2.0))
    with pytest.raises(Permanent, match="ChromaPipeline cannot change the strength of its text encoder"):
        machine.begin(spec(), plan, adapters)
    assert machine.begin(spec(), make_plan(model.layout, 4, a=1.0), adapters).step == 0


def test_it_cannot_be_saved(machine: PipelineMachine) -> None:
    state = begin(machine)
    machine.step([state])
    with pytest.raises(Permanent, match="ChromaPipeline cannot be saved in the middle"):
        state.save()
    with pytest.raises(ValueError, match="only 1 of 4 steps are done"):
        machine.finish(state)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"width": 33}, "width 33 does not suit"),
        ({"sampler": "euler_a"}, "Euler a does not fit a chroma model"),
        ({"frames": 9}, "9 frames do not suit"),
    ],
)
def test_what_does_not_suit_is_refused(
    machine: PipelineMachine, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadRequest, match=sentence):
        begin(machine, **fields)


def test_what_the_pipeline_refuses_is_a_sentence(
    machine: PipelineMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("these sizes are odd\nand more")

    state = begin(machine)
    monkeypatch.setattr(type(machine.model.pipeline), "check_inputs", refuse)
    with pytest.raises(BadRequest, match="cannot be sampled like this: these sizes are odd: choose"):
        machine.step([state])


def test_a_picture_of_nan_names_its_step_and_the_machine_goes_on(
    machine: PipelineMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = begin(machine)
    machine.step([state])
    embedder = machine.model.pipeline.transformer.x_embedder
    with monkeypatch.context() as patched:
        patched.setattr(embedder, "forward", lambda tensor: torch.full((*tensor.shape[:2], 32), torch.nan))
        with pytest.raises(Diverged, match="the model gave NaN at step 2 of 4"):
            machine.step([state])
    assert run(machine, [begin(machine)])[0].max() > 0


def test_previews_come_near_once_a_picture_was_finished(machine: PipelineMachine) -> None:
    state = begin(machine)
    machine.step([state])
    first = machine.preview(state)
    assert first.width * 3 == first.height * 2
    assert min(first.size) >= 128
    machine.step([state])
    early = np.array(machine.preview(state), dtype=float)
    while not state.done:
        machine.step([state])
    (picture,) = machine.finish(state)
    assert isinstance(picture, Image.Image)
    again = begin(machine)
    machine.step([again])
    machine.step([again])
    late = np.array(machine.preview(again), dtype=float)
    target = np.array(picture.resize(first.size, Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(late - target).mean() < 0.8 * np.abs(early - target).mean()


@pytest.mark.parametrize("name", ["hunyuanvideo", "ltxv"])
def test_videos(name: str, tmp_path: Path) -> None:
    model = load(write(name, tmp_path))
    machine = PipelineMachine(model, NoPatcher())
    width, height = TINY[name].asked["width"], TINY[name].asked["height"]
    with pytest.raises(BadRequest, match="10 frames do not suit"):
        begin(machine, width=width, height=height, frames=10)
    state = begin(machine, width=width, height=height, frames=9, fps=12.0, seeds=(1, 2))
    machine.step([state])
    preview = machine.preview(state)
    assert preview.width * height == preview.height * width
    while not state.done:
        machine.step([state])
    clips = machine.finish(state)
    assert len(clips) == 2
    for clip in clips:
        assert isinstance(clip, Clip)
        assert (len(clip.frames), clip.fps, clip.frames[0].size) == (9, 12.0, (width, height))


@pytest.mark.parametrize("name", [name for name in TINY if name not in ("sd2", "flux2")])
def test_every_sampler_that_fits(name: str, tmp_path: Path) -> None:
    """Each makes a finite picture of its own."""
    model = load(write(name, tmp_path))
    machine = PipelineMachine(model, NoPatcher())
    made = []
    for sampler in fits(model.family):
        state = begin(machine, **{**TINY[name].asked, "sampler": sampler})
        while not state.done:
            machine.step([state])
        made.append(state.latents)
    assert len(made) >= 2
    assert not any(torch.equal(made[0], other) for other in made[1:])


def test_a_failing_step_and_a_cancel_leave_weights_that_can_be_restored(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_lora(tmp_path / "a.safetensors", model.layout, model.layout.components)
    adapters = {"a": load_adapter(tmp_path / "a.safetensors", model.layout)}
    patcher = Patcher(model.modules, model.layout, pristine="device")
    before = patcher.fingerprint()
    machine = PipelineMachine(model, patcher)
    plan = make_plan(model.layout, 4, a=(1.0, 0.5, -1.0, 0.0))

    def fail(_: Any) -> None:
        raise RuntimeError("out of luck")

    failing, cancelled = (machine.begin(spec(), plan, adapters) for _ in range(2))
    machine.step([failing, cancelled])
    with monkeypatch.context() as patched:
        patched.setattr(model.pipeline.transformer.proj_out, "forward", fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            machine.step([failing])
    machine.step([cancelled])
    assert patcher.fingerprint() != before
    del failing, cancelled
    patcher.restore()
    assert patcher.fingerprint() == before
