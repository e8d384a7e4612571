"""Families without a step machine sample as their diffusers pipeline does, with all that tags can say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from farm.lora.patcher import Patcher, layer_module
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import load as load_adapter
from farm.models.clip import Clip
from farm.models.load import LoadedModel, load
from farm.models.machines import Machine, machine_for
from farm.models.pipeline_machine import PipelineMachine
from farm.models.sampler import SampleSpec, StepMachine
from farm.prompt import resolve, tags
from tests.support.tiny_pipelines import TINY, random_lora, write

STEPS = 3
#: those that run through their pipeline
PIPELINES = tuple(name for name in TINY if name != "sd2")


class Bench:
    """A tiny model with its machine, an adapter for it, and diffusers' own pipeline over the same folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model: LoadedModel = load(write(name, folder))
        self.patcher = Patcher(self.model.modules, self.model.layout, pristine="device")
        self.pristine = self.patcher.fingerprint()
        self.machine: Machine = machine_for(self.model, self.patcher)
        self.oracle: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        self.oracle.set_progress_bar_config(disable=True)
        if name == "hidream":
            # its pipeline scales every size to this area
            self.oracle.default_sample_size = 16

    def spec(self, **fields: Any) -> SampleSpec:
        asked: dict[str, Any] = {
            "prompt": "a red fox on the hill",
            "negative_prompt": "blue house",
            "steps": STEPS,
            "guidance_scale": 4.0,
            "sampler": TINY[self.name].sampler,
            "seeds": (7,),
            **TINY[self.name].asked,
        }
        return SampleSpec(**{**asked, **fields})

    def adapter(self, *components: str) -> tuple[Path, dict[str, tuple[Tensor, Tensor]]]:
        """Write a random LoRA for the components; return its file, and its factors by layer."""
        path = self.folder / f"{'-'.join(components)}.safetensors"
        return path, random_lora(path, self.model.layout, components)

    def plan(self, prompt: str, sha256: str, spec: SampleSpec) -> StrengthPlan:
        ref = resolve.AdapterRef(name="a", sha256=sha256, file_name="a.safetensors", default_strength=1.0)
        return resolve.plan(tags.parse(prompt).tags, {"a": ref}, self.model.layout, spec.steps).plan

    def run(
        self, spec: SampleSpec, plan: StrengthPlan, adapters: Mapping[str, Any]
    ) -> tuple[list[Tensor], np.ndarray]:
        """Return the machine's latents after each step and what it makes, as bytes."""
        state: Any = self.machine.begin(spec, plan, adapters)
        seen = []
        while not state.done:
            self.machine.step([state])
            seen.append(state.latents.clone())
        made = self.machine.finish(state)
        if self.model.info.video:
            assert all(isinstance(one, Clip) and one.fps == self.model.info.defaults["fps"] for one in made)
        return seen, np.array([one.frames if isinstance(one, Clip) else one for one in made])

    def theirs(self, spec: SampleSpec, **more: Any) -> tuple[list[Tensor], np.ndarray]:
        """Return diffusers' latents after each step and what it makes, as bytes."""
        seen: list[Tensor] = []

        def look(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            seen.append(values["latents"].clone())
            return values

        if self.model.info.video:
            more |= {"num_frames": spec.frames, "num_videos_per_prompt": len(spec.seeds)}
        else:
            more["num_images_per_prompt"] = len(spec.seeds)
        if self.name == "hunyuanvideo":
            more["true_cfg_scale"] = spec.true_cfg_scale
        if self.name == "sana":
            more["use_resolution_binning"] = False
        if self.name == "flux2_klein":
            more["negative_prompt_embeds"] = self.oracle.encode_prompt(spec.negative_prompt)[0]
        elif self.name != "flux2":
            more["negative_prompt"] = spec.negative_prompt
        output = self.oracle(
            prompt=spec.prompt,
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in spec.seeds],
            callback_on_step_end=look,
            **more,
        )
        return seen, np.array(output.frames if self.model.info.video else output.images)


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    made: dict[str, Bench] = {}

    def get(name: str) -> Bench:
        if name not in made:
            made[name] = Bench(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


BenchOf = Callable[[str], Bench]


@pytest.mark.parametrize("name", TINY)
def test_without_an_adapter_it_is_the_pipeline(bench_of: BenchOf, name: str) -> None:
    bench = bench_of(name)
    assert bench.model.family == TINY[name].family
    assert isinstance(bench.machine, StepMachine if name == "sd2" else PipelineMachine)
    spec = bench.spec(seeds=(7, 8))
    latents, made = bench.run(spec, StrengthPlan(steps=spec.steps), {})
    expected, pictures = bench.theirs(spec)
    assert len(latents) == len(expected) == STEPS
    for mine, theirs in zip(latents, expected, strict=True):
        assert torch.equal(mine, theirs)
    assert np.abs(made.astype(int) - pictures).max() <= 1
    frames = (spec.frames,) if spec.frames else ()
    assert made.shape == (2, *frames, spec.height, spec.width, 3)


@pytest.mark.parametrize("name", TINY)
def test_with_an_adapter_it_is_diffusers_own_loader(bench_of: BenchOf, name: str) -> None:
    bench = bench_of(name)
    spec = bench.spec()
    path, factors = bench.adapter(*bench.model.layout.denoisers)
    adapter = load_adapter(path, bench.model.layout)
    assert set(adapter.deltas) == set(factors)
    latents, made = bench.run(spec, bench.plan("<lora:a:0.8>", path.stem, spec), {path.stem: adapter})
    plain, _ = bench.theirs(spec)
    bench.oracle.load_lora_weights(path.parent, weight_name=path.name, adapter_name="a")
    try:
        bench.oracle.set_adapters(["a"], [0.8])
        expected, pictures = bench.theirs(spec)
    finally:
        bench.oracle.unload_lora_weights()
    for mine, theirs in zip(latents, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
    assert np.abs(made.astype(int) - pictures).max() <= 1
    assert not torch.allclose(plain[-1], expected[-1], atol=1e-3)
    bench.patcher.restore()
    assert bench.patcher.fingerprint() == bench.pristine


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("guided", [True, False])
def test_strengths_of_picture_and_text_change_at_their_step(
    bench_of: BenchOf, name: str, guided: bool
) -> None:
    """The oracle is the denoiser of diffusers' pipeline, whose weights and texts are replaced by hand at each call."""
    bench = bench_of(name)
    spec = bench.spec() if guided else bench.spec(guidance_scale=1.0, true_cfg_scale=1.0)
    path, factors = bench.adapter(*bench.model.layout.components)
    adapter = load_adapter(path, bench.model.layout)
    assert set(adapter.deltas) == set(factors)
    plan = bench.plan("<lora:a:te=0.1@1,4@2,0.1@3:unet=0.7@1,-0.4@3>", path.stem, spec)
    latents, _ = bench.run(spec, plan, {path.stem: adapter})
    hand = ByHand(bench, factors)
    texts = {strength: hand.texts(spec, strength) for strength in (0.1, 4.0)}
    with hand.replacing([texts[s] for s in (0.1, 4.0, 0.1)], (0.7, 0.7, -0.4)):
        expected, _ = bench.theirs(spec)
    for mine, theirs in zip(latents, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
    # a text that had not been changed would be noticed
    with hand.replacing([texts[0.1]] * 3, (0.7, 0.7, -0.4)):
        constant, _ = bench.theirs(spec)
    assert torch.equal(constant[0], expected[0])
    assert not torch.allclose(constant[1], expected[1], atol=1e-3)
    bench.patcher.restore()
    assert bench.patcher.fingerprint() == bench.pristine


Texts = list[dict[str, Tensor]]


class ByHand:
    """Sets the weights of diffusers' pipeline, W + strength · B·A, and looks at what its denoiser is given."""

    def __init__(self, bench: Bench, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self.bench = bench
        self.denoiser: nn.Module = bench.oracle.transformer
        self.layers = []
        for name, (up, down) in factors.items():
            layer = bench.model.layout.layers[name]
            module = layer_module(getattr(bench.oracle, layer.component), layer)
            self.layers.append((layer.component, module, module.weight.detach().clone(), up @ down))

    def set(self, strength: float, *, text: bool) -> None:
        for component, module, pristine, delta in self.layers:
            if text == component.startswith("text_encoder"):
                module.weight.data.copy_(pristine + strength * delta)

    def texts(self, spec: SampleSpec, strength: float) -> Texts:
        """Return the texts that the denoiser is given in a run under one strength, for each call of a step."""
        seen: Texts = []

        def look(_: nn.Module, __: Any, options: dict[str, Any]) -> None:
            seen.append({name: value for name, value in options.items() if _is_text(name)})

        self.set(strength, text=True)
        handle = self.denoiser.register_forward_pre_hook(look, with_kwargs=True)
        try:
            self.bench.theirs(spec)
        finally:
            handle.remove()
            self.set(0.0, text=True)
        return seen[: len(seen) // STEPS]

    @contextmanager
    def replacing(self, texts: list[Texts], strengths: tuple[float, ...]) -> Iterator[None]:
        """Denoise step n under texts and strength n, wherever the pipeline takes its text from."""
        per_step, calls = len(texts[0]), 0

        def put(_: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            nonlocal calls
            step, side = divmod(calls, per_step)
            self.set(strengths[step], text=False)
            calls += 1
            return args, {**options, **texts[step][side]}

        handle = self.denoiser.register_forward_pre_hook(put, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self.set(0.0, text=False)


def _is_text(name: str) -> bool:
    return name.startswith(("encoder_hidden_states", "pooled_"))


def test_hidream_makes_the_size_that_is_asked_for(bench_of: BenchOf) -> None:
    bench = bench_of("hidream")
    spec = bench.spec(width=24, height=40, steps=1)
    state = bench.machine.begin(spec, StrengthPlan(steps=1), {})
    bench.machine.step([state])
    (picture,) = bench.machine.finish(state)
    assert isinstance(picture, Image.Image)
    assert picture.size == (24, 40)
