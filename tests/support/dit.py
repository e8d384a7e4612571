"""Transformer pipelines as loaded models, and diffusers' own run of a spec to compare with."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from farm.lora.algorithms.lora import LowRank
from farm.lora.layout import Layout
from farm.models import defaults, families
from farm.models.families import ModelInfo
from farm.models.load import LoadedModel
from farm.models.registry import PIPELINES
from farm.models.state import SampleSpec
from tests.support.tiny_dit import SIZE

STEPS = 4


def loaded(pipeline: Any, family: str) -> LoadedModel:
    """Return the pipeline as a loaded model, as if it had been read from a folder."""
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    configs = {name: _config(part) for name, part in parts.items()}
    configs["scheduler"] = _config(pipeline.scheduler)
    name = type(pipeline).__name__
    registered = PIPELINES[name]
    layout = families.layout(family, configs)
    info = ModelInfo(
        name=f"tiny-{family}",
        family=family,
        format="diffusers",
        pipeline=name,
        configs=configs,
        defaults=defaults.defaults(family, registered, configs, {}),
        limits=defaults.limits(registered, configs),
        files=(),
        bytes=0,
        denoisers=layout.denoisers,
        video=registered.video,
    )
    return LoadedModel(
        info=info,
        layout=layout,
        device=torch.device("cpu"),
        dtype=pipeline.transformer.dtype,
        modules={name: parts[name] for name in layout.components},
        unet=None,
        vae=pipeline.vae,
        text_encoders={name: parts[name] for name in layout.text_encoders},
        tokenizers={},
        scheduler_config=configs["scheduler"],
        pipeline=pipeline,
    )


def _config(part: Any) -> dict[str, Any]:
    """Return a part's config as a folder holds it."""
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    return {**config, "_class_name": type(part).__name__}


def spec_of(family: str, **fields: Any) -> SampleSpec:
    """Return what is asked of the family's tiny model unless `fields` say otherwise: a guided picture."""
    asked: dict[str, Any] = {
        "prompt": "a red fox on the hill",
        "negative_prompt": "blue house",
        "width": SIZE,
        "height": SIZE + 16,
        "steps": STEPS,
        "guidance_scale": 4.0,
        "sampler": "unipc" if family == "wan" else "flow_euler",
        "seeds": (7,),
        "frames": 5 if family == "wan" else 1,
    }
    if family == "flux1":
        asked["true_cfg_scale"] = 2.5
    return SampleSpec(**{**asked, **fields})


def theirs(pipeline: Any, family: str, spec: SampleSpec, **more: Any) -> tuple[list[Tensor], Tensor]:
    """Return diffusers' latents after each step and its pictures, from 0 to 1; `more` is for the pipeline's call."""
    seen: list[Tensor] = []

    def look(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"].clone())
        return values

    count = {"num_videos_per_prompt" if family == "wan" else "num_images_per_prompt": len(spec.seeds)}
    output = pipeline(
        spec.prompt,
        generator=[torch.Generator().manual_seed(seed) for seed in spec.seeds],
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.steps,
        callback_on_step_end=look,
        output_type="pt",
        **count,
        **_guidance(family, spec),
        **more,
    )
    return seen, output.frames if family == "wan" else output.images


def _guidance(family: str, spec: SampleSpec) -> dict[str, Any]:
    """Return how the family's pipeline is told of guidance."""
    told: dict[str, Any] = {"guidance_scale": spec.guidance_scale, "negative_prompt": spec.negative_prompt}
    if family == "flux1":
        told["true_cfg_scale"] = spec.true_cfg_scale
    if family == "qwenimage":
        told["true_cfg_scale"] = told.pop("guidance_scale")
    if family == "wan":
        told |= {"num_frames": spec.frames, "guidance_scale_2": spec.guidance_scale_2}
    return told


class Lora:
    """Random factors of rank 2 for all linear layers of some components; as `deltas` an adapter for a patcher."""

    def __init__(
        self, layout: Layout, components: Collection[str], seed: int = 0, scale: float = 0.5
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in layout.layers.items():
            if layer.component in components and layer.kind == "linear":
                out, into = layer.shape
                up = torch.randn(out, 2, generator=generator) * scale
                self.factors[name] = (up, torch.randn(2, into, generator=generator) / into**0.5)

    @property
    def deltas(self) -> dict[str, LowRank]:
        return {name: LowRank(up, down) for name, (up, down) in self.factors.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the file's content in peft's names; both of Wan's experts are called `transformer` there."""
        found: dict[str, Tensor] = {}
        for name, (up, down) in self.factors.items():
            component, path = name.split(".", 1)
            key = f"{component.removesuffix('_2')}.{path}"
            found |= {f"{key}.lora_A.weight": down.clone(), f"{key}.lora_B.weight": up.clone()}
        return found

    def write_into(self, pipeline: Any, strength: float) -> None:
        """Change the weights of a pipeline by hand: W + strength · B A."""
        for name, (up, down) in self.factors.items():
            component, path = name.split(".", 1)
            weight = getattr(pipeline, component).get_submodule(path).weight
            weight.data += strength * (up @ down)
