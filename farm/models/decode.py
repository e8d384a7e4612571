"""Latents become pictures: through the VAE, one at a time, so that a batch needs no more memory than one picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from farm.models.load import LoadedModel


@torch.no_grad()
def decode(model: LoadedModel, latents: Tensor) -> Tensor:
    """Return pictures (n, 3, height, width) from 0 to 1 on the host; (n, 3, frames, height, width) of a video VAE.

    `latents` are (n, channels, height, width), or (n, channels, frames, height, width) of a video VAE.
    """
    vae: Any = model.vae
    with precise_vae(model) as dtype:
        ones = torch.split(latents, 1)
        pixels = [vae.decode(unscale(model, one).to(dtype), return_dict=False)[0] for one in ones]
    return (torch.cat(pixels) * 0.5 + 0.5).clamp(0, 1).float().cpu()


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Return pictures from 0 to 1 as images of 8 bits."""
    rows = (pixels.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    return [Image.fromarray(row) for row in rows]


def unscale(model: LoadedModel, latents: Tensor) -> Tensor:
    """Return latents as the VAE made them, from those that the denoiser works on."""
    config = model.vae.config
    mean, std = _moments(config, latents)
    if latents.ndim == 5 and mean is not None and std is not None:
        # a video VAE; divided by the inverse, as its pipelines do, for the same last bit
        return latents / (1.0 / std) + mean
    factor = float(config.scaling_factor)
    if mean is not None and std is not None:
        return latents * std / factor + mean
    shift = getattr(config, "shift_factor", None)
    return latents / factor if shift is None else latents / factor + float(shift)


def rescale(model: LoadedModel, encoded: Tensor) -> Tensor:
    """Return latents as the denoiser works on them: what `unscale` undoes."""
    config = model.vae.config
    mean, std = _moments(config, encoded)
    factor = float(getattr(config, "scaling_factor", None) or 1.0)
    if mean is not None and std is not None:
        return (encoded - mean) / std * factor
    return (encoded - float(getattr(config, "shift_factor", None) or 0.0)) * factor


def _moments(config: Any, latents: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return mean and standard deviation of each channel of the latents, where the VAE says them."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return None, None
    wide = (1, -1) + (1,) * (latents.ndim - 2)
    return torch.tensor(mean).view(wide).to(latents), torch.tensor(std).view(wide).to(latents)


@contextmanager
def precise_vae(model: LoadedModel) -> Iterator[torch.dtype]:
    """Run a VAE that overflows in half precision in full precision; yields the dtype to feed it."""
    vae: Any = model.vae
    overflows = vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if overflows:
        vae.to(torch.float32)
    try:
        yield vae.dtype
    finally:
        if overflows:
            vae.to(torch.float16)
