"""Previews of latents whose VAE is not known from outside: their colours are learnt from pictures that were finished.

Latents of one model keep their meaning from job to job, and a linear map of their channels comes near to the picture.
Before the first picture is finished, their three main directions are shown as red, green and blue.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from farm.models.decode import to_images
from farm.models.preview import apply_colours, enlarged


class LoopPreviewer:
    """Makes previews for one pipeline, in whose packed latents one token is `edge` pixels wide."""

    def __init__(self, edge: int) -> None:
        self._edge = edge
        self._colours: Tensor | None = None

    def image(self, latents: Tensor, width: int, height: int) -> Image.Image:
        """Return a picture of the first of these latents, for pictures of this size."""
        plane = torch.nan_to_num(self._plane(latents, width, height))
        pixels = _directions(plane) if self._colours is None else apply_colours(self._colours, plane[None])
        return enlarged(to_images(pixels)[0])

    def learn(self, latents: Tensor, picture: Image.Image) -> None:
        """Remember how finished latents look."""
        plane = self._plane(latents, *picture.size)
        small = picture.convert("RGB").resize((plane.shape[2], plane.shape[1]), Image.Resampling.BOX)
        seen = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).flatten(0, 1)
        rows = plane.flatten(1).T
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        # the default driver is wrong where latents depend on one another, as they may
        self._colours = torch.linalg.lstsq(rows, seen, driver="gelsd").solution

    def _plane(self, latents: Tensor, width: int, height: int) -> Tensor:
        """Return the first latents (channels, h, w) on the host: of a video the first frame, of tokens their grid."""
        first = latents[0].float().cpu()
        if first.ndim == 4:
            return first[:, 0]
        if first.ndim == 2:
            high, wide = height // self._edge, width // self._edge
            return first[: high * wide].T.reshape(-1, high, wide)
        return first


def _directions(plane: Tensor) -> Tensor:
    """Return a picture (1, 3, h, w) of the three main directions of the channels."""
    rows = plane.flatten(1).T
    rows = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    shown = rows @ directions[:3].T
    shown = shown / shown.abs().amax(0).clamp(min=1e-6)
    pixels = torch.zeros(len(shown), 3)
    pixels[:, : shown.shape[1]] = shown
    return (pixels.T.reshape(1, 3, *plane.shape[1:]) + 1) / 2
