"""The Cayley transform: rotations (I + Q)(I - Q)⁻¹ from skew-symmetric matrices Q, as OFT and BOFT store them."""

from __future__ import annotations

import torch
from torch import Tensor

from farm.lora.delta import LayerTensors


def turns(layer: LayerTensors, suffix: str, skew: Tensor) -> Tensor:
    """(I + Q)(I - Q)⁻¹ - I of each matrix (…, b, b); for the inverse rotation give -Q.

    Raises BadRequest when Q, made from `suffix`, is too large for that.
    """
    eye = torch.eye(skew.shape[-1])
    # R - I = 2 Q (I - Q)⁻¹, without the cancellation of a small turn against I
    found, singular = torch.linalg.solve_ex(eye - skew, 2 * skew, left=False)
    if bool(singular.any()):
        found = torch.full_like(skew, torch.nan)
    return layer.finite(suffix, found)
