"""What a job gets from a model where it says nothing, and the limits of what it may ask; from configs, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farm.models import vaes
from farm.models.layouts.blocks import Config
from farm.models.layouts.classes import DENOISERS
from farm.models.registry import Pipeline
from farm.models.samplers import OF_SCHEDULER, fits

#: what a job gets from a model of this family, beside the defaults of its pipeline
_OF_FAMILY: Mapping[str, Mapping[str, Any]] = {"demo": {"steps": 20}}


def defaults(family: str, pipeline: Pipeline, configs: Mapping[str, Config], index: Config) -> dict[str, Any]:
    """Return width, height, steps, guidance_scale, sampler, negative_prompt; of videos also frames and fps.

    `_farm_defaults` in model_index.json goes before all else.
    """
    scale = vaes.scale(configs["vae"]).spatial
    scheduler = configs["scheduler"]
    sampler = OF_SCHEDULER.get(str(scheduler.get("_class_name")), pipeline.sampler)
    if sampler not in fits(family):
        sampler = pipeline.sampler
    if sampler == "dpmpp_2m" and scheduler.get("use_karras_sigmas"):
        sampler = "dpmpp_2m_karras"
    size = _denoiser(pipeline, configs).get("sample_size") or 64
    high, wide = size if isinstance(size, list | tuple) else (size, size)
    found: dict[str, Any] = {
        "width": int(wide) * scale,
        "height": int(high) * scale,
        "sampler": sampler,
        "negative_prompt": "",
        **pipeline.defaults,
        **_OF_FAMILY.get(family, {}),
    }
    for variant in pipeline.variants:
        if variant.when(configs, index):
            found |= variant.defaults
    return {**found, **index.get("_farm_defaults", {})}


def limits(pipeline: Pipeline, configs: Mapping[str, Config]) -> dict[str, int]:
    """Return multiple_of, min_size and max_steps; max_size and max_pixels where the denoiser has no room for more; of
    videos frame_step."""
    scale = vaes.scale(configs["vae"])
    multiple = scale.spatial * pipeline.patch
    found = {
        "multiple_of": multiple,
        "min_size": multiple,
        "max_steps": int(configs["scheduler"].get("num_train_timesteps", 1000)),
    }
    if "unet" in configs:
        levels = len(configs["unet"].get("block_out_channels", (320, 640, 1280, 1280)))
        found["min_size"] = scale.spatial * 2 ** (levels - 1)
    if pipeline.positions is not None:
        found["max_size"] = multiple * pipeline.positions(_denoiser(pipeline, configs))
    if pipeline.room is not None:
        found["max_pixels"] = multiple**2 * pipeline.room(_denoiser(pipeline, configs))
    if pipeline.video:
        found["frame_step"] = scale.temporal
    return found


def _denoiser(pipeline: Pipeline, configs: Mapping[str, Config]) -> Config:
    """Return the whole config of the first denoiser."""
    return {**DENOISERS[pipeline.denoiser].defaults, **configs[pipeline.denoisers[0]]}
