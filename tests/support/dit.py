"""Transformer pipelines as loaded models, and diffusers' own run of a spec to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from farm.lora.layout import Layer, Layout
from farm.models.families import ModelInfo
from farm.models.load import LoadedModel
from farm.models.state import SampleSpec
from tests.support.tiny_dit import SIZE

#: components that adapters may change, the denoisers last
_TEXT = ("text_encoder", "text_encoder_2", "text_encoder_3")
_DENOISERS = ("transformer", "transformer_2")
STEPS = 4


def loaded(pipeline: Any, family: str) -> LoadedModel:
    """Return the pipeline as a loaded model, its layout made of all linear layers, each component one region."""
    pipeline.set_progress_bar_config(disable=True)
    parts = {name: getattr(pipeline, name, None) for name in (*_TEXT, *_DENOISERS)}
    modules = {name: part for name, part in parts.items() if part is not None}
    for module in (*modules.values(), pipeline.vae):
        module.requires_grad_(False).eval()
    layers: dict[str, Layer] = {}
    for component, root in modules.items():
        for path, module in root.named_modules():
            if isinstance(module, nn.Linear):
                layer = Layer(
                    component=component,
                    path=path,
                    kind="linear",
                    shape=tuple(module.weight.shape),
                    bias=module.bias is not None,
                    block="all",
                )
                layers[layer.name] = layer
    scheduler = dict(pipeline.scheduler.config) | {"_class_name": type(pipeline.scheduler).__name__}
    info = ModelInfo(
        name=f"tiny-{family}",
        family=family,
        format="diffusers",
        pipeline=type(pipeline).__name__,
        configs={"scheduler": scheduler, "transformer": dict(pipeline.transformer.config)},
        defaults={},
        limits={"multiple_of": 16, "min_size": 16, "max_steps": 1000},
        files=(),
        bytes=0,
    )
    return LoadedModel(
        info=info,
        layout=Layout(
            family=family,
            denoisers=tuple(name for name in _DENOISERS if name in modules),
            text_encoders=tuple(name for name in _TEXT if name in modules),
            blocks=(),
            layers=layers,
        ),
        device=torch.device("cpu"),
        dtype=pipeline.transformer.dtype,
        modules=modules,
        unet=None,
        vae=pipeline.vae,
        text_encoders={name: part for name, part in modules.items() if name in _TEXT},
        tokenizers={},
        scheduler_config=scheduler,
        pipeline=pipeline,
    )


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
