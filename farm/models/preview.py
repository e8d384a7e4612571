"""Cheap pictures of unfinished latents, for watching a job: a small VAE decodes, for a large one colours are fitted once."""

from __future__ import annotations

from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from farm.models.decode import decode, precise_vae, rescale, to_images
from farm.models.load import LoadedModel

#: VAEs with fewer weights than this decode a preview themselves.
SMALL_VAE = 5_000_000
#: Previews are enlarged to at least this many pixels.
LEAST_SIZE = 128
#: The colours are fitted to a picture of so many squares a side, each so many pixels wide.
_PATCHES, _PATCH_SIZE = 8, 32


class Previewer:
    """Makes previews for one model."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._small = sum(weight.numel() for weight in model.vae.parameters()) < SMALL_VAE
        self._colours: Tensor | None = None

    @torch.no_grad()
    def image(self, latents: Tensor) -> Image.Image:
        """Return a picture of the first of these latents, of its first frame in a video."""
        latents = torch.nan_to_num(latents[:1])
        if latents.ndim == 5:
            latents = latents[:, :, :1]
        if self._small:
            pixels = _flat(decode(self._model, latents))
        else:
            if self._colours is None:
                self._colours = fit_colours(self._model)
            pixels = apply_colours(self._colours, _flat(latents))
        return enlarged(to_images(pixels)[0])


@torch.no_grad()
def fit_colours(model: LoadedModel) -> Tensor:
    """Return the matrix (channels + 1, 3) that comes nearest to the VAE, pixel by pixel: least squares over
    coloured squares that the VAE's encoder has seen. Costs one encoding of a small picture, which is shown to a
    video VAE as one frame.
    """
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(1, 3, _PATCHES, _PATCHES, generator=generator)
    size = _PATCHES * _PATCH_SIZE
    picture = torch.nn.functional.interpolate(colours, size=(size, size), mode="nearest")
    with precise_vae(model) as dtype:
        shown = (picture * 2 - 1).to(model.device, dtype)
        encoded = model.vae.encode(
            shown[:, :, None] if hasattr(model.vae.config, "temperal_downsample") else shown
        ).latent_dist.mean
    latents = _flat(rescale(model, encoded.float()))
    seen = torch.nn.functional.avg_pool2d(picture, size // latents.shape[-1])
    rows = _with_one(latents.cpu())
    # the default driver is wrong where latents depend on one another, as they may
    solution: Tensor = torch.linalg.lstsq(rows, seen[0].flatten(1).T, driver="gelsd").solution
    return solution


def apply_colours(colours: Tensor, latents: Tensor) -> Tensor:
    """Return a picture (1, 3, h, w) from 0 to 1, one pixel for each latent."""
    height, width = latents.shape[-2:]
    pixels = _with_one(latents.float().cpu()) @ colours
    return pixels.T.reshape(1, 3, height, width).clamp(0, 1)


def to_webp(image: Image.Image, quality: int = 70) -> bytes:
    """Return the image as a WebP file."""
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def _flat(pictures: Tensor) -> Tensor:
    """Return the first frames (n, c, h, w) of a video."""
    return pictures[:, :, 0] if pictures.ndim == 5 else pictures


def _with_one(latents: Tensor) -> Tensor:
    rows = latents[0].flatten(1).T
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def enlarged(image: Image.Image) -> Image.Image:
    """Return the image by a whole factor larger, where it is too small to be looked at."""
    factor = -(-LEAST_SIZE // min(image.size))
    if factor <= 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
