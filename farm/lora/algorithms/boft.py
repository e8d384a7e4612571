"""BOFT: a layer's outputs pass through stages of block rotations, each between other pairs, like a butterfly.

Paper: BOFT (Liu et al., arXiv 2311.06243), as LyCORIS stores it: `oft_blocks` (stages, blocks, b, b), `alpha` and
`rescale` as in OFT. In stage i, with k = 2^i · b / 2, rows are taken as (…, 2, k), the last two axes exchanged, cut into
blocks of b, multiplied by R_i (not transposed), and put back. Each stage is softened by the strength,
R_i ← I + s · (R_i - I), so the change is a polynomial in s.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.algorithms import dora, peft_rotation
from farm.lora.algorithms.oft import constrained, rescaled
from farm.lora.delta import Delta, LayerTensors


class BOFT(Delta):
    __slots__ = ("rescale", "turns")

    def __init__(self, turns: Tensor, rescale: Tensor | None) -> None:
        super().__init__()
        #: R - I for each stage, (stages, blocks, b, b)
        self.turns = turns
        self.rescale = rescale

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        size = self.turns.shape[-1]
        rows = pristine.reshape(pristine.shape[0], -1)
        for stage, turn in enumerate(self.turns.to(pristine.device)):
            k = 2**stage * size // 2
            paired = rows.reshape(-1, 2, k, rows.shape[1]).transpose(1, 2)
            blocks = paired.reshape(-1, size, rows.shape[1])
            moved = blocks + torch.einsum("bij,bjn->bin", turn * strength, blocks)
            rows = moved.reshape(paired.shape).transpose(1, 2).reshape(rows.shape)
        change = (rows - pristine.reshape(rows.shape)).view(pristine.shape)
        return change if self.rescale is None else rescaled(change, pristine, self.rescale)

    def tensors(self) -> Iterator[Tensor]:
        yield self.turns
        if self.rescale is not None:
            yield self.rescale


def read(layer: LayerTensors) -> Delta:
    if layer.has("boft_r"):
        return dora.wrap(layer, peft_rotation.read_boft(layer))
    found = BOFT(constrained(layer, layer.read("oft_blocks")), layer.bias("rescale"))
    return dora.wrap(layer, found)
