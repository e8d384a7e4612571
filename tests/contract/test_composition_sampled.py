"""Composed tags in a run: diffusers samples the same from weights that are set by hand before each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from farm.lora.patcher import Patcher
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import load as load_adapter
from farm.models.hires import Hires
from farm.models.load import load
from farm.models.sampler import SampleSpec, StepMachine
from farm.models.second_pass import begin_second
from farm.prompt.passes import plans
from farm.prompt.resolve import plan
from farm.prompt.tags import parse
from tests.contract.test_composition import REFS, VECTORS, label
from tests.contract.test_samplers import CLASSES
from tests.support.tiny import tiny_lora, tiny_sd15

pytestmark = pytest.mark.filterwarnings("ignore")


class Bench:
    """A tiny SD 1.5 with two adapters, in the step machine and in diffusers with weights that are set by hand."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            name: tiny_lora(folder.parent / f"{name}.safetensors", folder, seed=seed, rank=3)
            for name, seed in (("a", 3), ("b", 4))
        }
        self.model = load(folder)
        self.patcher = Patcher(self.model.modules, self.model.layout, pristine="device")
        self.machine = StepMachine(self.model, self.patcher)
        self.adapters = {name: load_adapter(path, self.model.layout) for name, path in self.files.items()}
        self.pipeline: Any = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        self.pipeline.set_progress_bar_config(disable=True)
        self.config = self.pipeline.scheduler.config
        self.layers: dict[str, tuple[Any, Tensor]] = {}
        for component, prefix, level in (
            ("unet", "lora_unet_", ""),
            ("text_encoder", "lora_te_", "text_model_"),
        ):
            for name, module in getattr(self.pipeline, component).named_modules():
                if isinstance(module, nn.Linear):
                    key = f"{prefix}{level}{name.removeprefix('text_model.').replace('.', '_')}"
                    self.layers[f"{component}.{name}|{key}"] = module, module.weight.detach().clone()
        self.tensors = {name: load_file(path) for name, path in self.files.items()}

    def set(self, strength: Callable[[str, str], tuple[float, ...]]) -> None:
        """W + s · B A of all ranks + s · B A of the first two, as `strength` (adapter, layer) says."""
        for names, (module, pristine) in self.layers.items():
            layer, key = names.split("|")
            weight = pristine.clone()
            for name, tensors in self.tensors.items():
                if f"{key}.lora_up.weight" not in tensors:
                    continue
                up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
                whole, cut = strength(name, layer)
                weight += whole * (up @ down) + cut * (up[:, :2] @ down[:2])
            module.weight.data.copy_(weight)

    def spec(self, **fields: Any) -> SampleSpec:
        asked: dict[str, Any] = {
            "prompt": "a red fox", "negative_prompt": "blue", "width": 64, "height": 64, "steps": 5,
            "guidance_scale": 4.0, "sampler": "euler", "seeds": (5,),
        }  # fmt: skip
        return SampleSpec(**{**asked, **fields})

    def ours(self, spec: SampleSpec, strengths: StrengthPlan) -> Any:
        state = self.machine.begin(spec, strengths, self.adapters)
        while not state.done:
            self.machine.step([state])
        return state

    def theirs(self, pipeline: Any, spec: SampleSpec, between: Callable[[int], None], **more: Any) -> Tensor:
        """Latents of diffusers' pipeline; `between` is called before each step with its number."""
        name, fields = CLASSES[spec.sampler]
        pipeline.scheduler = getattr(diffusers, name).from_config(self.config, **fields)

        def look(_: Any, step: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
            between(step + 2)
            return values

        between(1)
        found = pipeline(
            spec.prompt,
            negative_prompt=spec.negative_prompt,
            generator=torch.Generator().manual_seed(spec.seeds[0]),
            guidance_scale=spec.guidance_scale,
            callback_on_step_end=look,
            output_type="latent",
            **more,
        )
        latents: Tensor = found.images
        return latents


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tiny_sd15(tmp_path_factory.mktemp("models") / "sd15"))


def test_a_composed_prompt_samples_as_weights_that_are_set_by_hand(bench: Bench) -> None:
    """A vector, a window, a negative strength, a curve and `dyn`, some of them twice on one adapter."""
    vector = [round(0.15 * n - 1, 2) for n in range(26)]
    named = dict(zip(VECTORS[26].split(), vector, strict=True))
    prompt = (
        f"<lora:a:0.8:lbw={','.join(map(str, vector))}> <lora:a:-0.6:module=unet:start=2:stop=4> "
        "<lora:b:0.7:dyn=2:module=unet:step=3-5> <lora:b:te=-0.5:unet=0.1@1,0.9@4>"
    )
    spec = bench.spec()
    state = bench.ours(spec, plan(parse(prompt).tags, REFS, bench.model.layout, spec.steps).plan)

    def between(step: int) -> None:
        def strength(adapter: str, layer: str) -> tuple[float, float]:
            picture = layer.startswith("unet.")
            if adapter == "a":
                return 0.8 * named[label(layer)] - 0.6 * (picture and 2 <= step <= 4), 0.0
            return (0.9 if step >= 4 else 0.1) if picture else -0.5, 0.7 * (picture and 3 <= step <= 5)

        bench.set(strength)

    more = {"width": 64, "height": 64, "num_inference_steps": spec.steps}
    expected = bench.theirs(bench.pipeline, spec, between, **more)
    torch.testing.assert_close(state.latents, expected, atol=2e-3, rtol=1e-3)
    plain = bench.theirs(bench.pipeline, spec, lambda _: bench.set(lambda *_: (0.0, 0.0)), **more)
    assert not torch.allclose(plain, expected, atol=0.1)


def test_the_second_pass_has_strengths_of_its_own(bench: Bench) -> None:
    """hrte and hrunet, beside an adapter that acts alike in both; the oracle is img2img on weights set by hand."""
    tags = parse("<lora:a:0.5:hrte=-0.8:hrunet=0.2@1,1@3> <lora:b:0.3> <lora:b:0:hr=0.4>").tags
    spec = bench.spec(steps=2, hires=Hires(scale=1.5, steps=4, strength=0.5))
    found = plans(tags, REFS, bench.model.layout, 2, 4)
    first = bench.ours(spec, found.first)
    assert found.second is not None
    second: Any = begin_second(bench.machine, first, found.second)
    while not second.done:
        bench.machine.step([second])

    def between(step: int) -> None:
        def strength(adapter: str, layer: str) -> tuple[float, float]:
            if adapter == "b":
                return 0.7, 0.0
            return ((1.0 if step >= 3 else 0.2) if layer.startswith("unet.") else -0.8), 0.0

        bench.set(strength)

    parts = {name: part for name, part in bench.pipeline.components.items() if name != "image_encoder"}
    pipeline: Any = StableDiffusionImg2ImgPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    start = interpolate(first.latents, size=(12, 12), mode="bilinear")
    more = {"image": start, "num_inference_steps": 8, "strength": 0.5}
    expected = bench.theirs(pipeline, replace(spec, hires=None), between, **more)
    torch.testing.assert_close(second.latents, expected, atol=2e-3, rtol=1e-3)
    same: Any = begin_second(bench.machine, first, plans(tags, REFS, bench.model.layout, 4, None).first)
    while not same.done:
        bench.machine.step([same])
    assert not torch.allclose(same.latents, expected, atol=0.05)
