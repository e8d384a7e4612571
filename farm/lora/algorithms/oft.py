"""OFT: blocks of a layer's outputs are rotated, W'_k = (I + s · (R_k - I))ᵀ W_k, then rescaled where the file says so.

Paper: OFT (Qiu et al., arXiv 2306.07280), in block-diagonal form as in kohya's scripts and LyCORIS' diag-oft.
`oft_blocks` B (blocks, size, size); Q = B - Bᵀ; R = (I + Q)(I - Q)⁻¹, the Cayley transform. `alpha` is a constraint: with
c = alpha · out, Q is shrunk to ‖Q‖ = c (over all blocks) when it is longer. alpha = 0 is no constraint in LyCORIS, and
no rotation at all in kohya's files (which are told by their `oft_unet_` prefix). `rescale` (out, 1, …) multiplies the
result at any strength but 0. `oft_diag`, of the first versions of LyCORIS, has the shape of `oft_blocks` and is R itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.algorithms import cayley, dora, peft_rotation
from farm.lora.delta import Delta, LayerTensors


class OFT(Delta):
    __slots__ = ("rescale", "turn")

    def __init__(self, turn: Tensor, rescale: Tensor | None) -> None:
        super().__init__()
        #: R - I, (blocks, size, size)
        self.turn = turn
        #: (out,)
        self.rescale = rescale

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        blocks, size, _ = self.turn.shape
        rows = pristine.reshape(blocks, size, -1)
        moved = torch.einsum("knm,kni->kmi", self.turn.to(pristine.device) * strength, rows).view(
            pristine.shape
        )
        return moved if self.rescale is None else rescaled(moved, pristine, self.rescale)

    def tensors(self) -> Iterator[Tensor]:
        yield self.turn
        if self.rescale is not None:
            yield self.rescale


def read(layer: LayerTensors) -> Delta:
    if layer.has("oft_r"):
        return dora.wrap(layer, peft_rotation.read_oft(layer))
    legacy = layer.maybe("oft_diag")
    if legacy is None:
        turn = constrained(layer, layer.read("oft_blocks"))
    else:
        turn = legacy - torch.eye(legacy.shape[-1])
    return dora.wrap(layer, OFT(turn, layer.bias("rescale")))


def constrained(layer: LayerTensors, blocks: Tensor) -> Tensor:
    """R - I of each block (…, size, size), after the constraint."""
    skew = blocks - blocks.transpose(-1, -2)
    limit = _limit(layer)
    norm = float(torch.linalg.vector_norm(skew))
    if limit is not None and norm > limit:
        skew = skew * (limit / norm)
    return cayley.turns(layer, "oft_blocks", skew)


def rescaled(moved: Tensor, pristine: Tensor, rescale: Tensor) -> Tensor:
    """Change of a weight that was moved by `moved` and is then multiplied row by row."""
    rows = rescale.to(pristine.device).view(-1, *[1] * (pristine.dim() - 1))
    return (pristine + moved).mul_(rows).sub_(pristine)


def _limit(layer: LayerTensors) -> float | None:
    """Longest Q that the file allows; None for any."""
    alpha = layer.constraint()
    if alpha is None or (alpha == 0 and not layer.module.startswith("oft_unet_")):
        return None
    return alpha * layer.shape[0]
