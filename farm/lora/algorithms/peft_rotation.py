"""peft's OFT and BOFT: a layer's inputs are turned in blocks, W' = diag(m) W Rᵀ, where R is one or several block rotations.

Papers: OFT (Qiu et al., arXiv 2306.07280), with the Cayley-Neumann series of OFTv2 (Qiu et al., arXiv 2506.19847); BOFT
(Liu et al., arXiv 2311.06243). Inputs of a convolution are (in, kernel), flat. `oft_r` (blocks, b (b - 1) / 2) is the
upper triangle of each Q, row by row; one block for all inputs when they share it. peft's configuration says how Q
becomes R: as I + 2 Q + 2 Q² + … + 2 Qⁿ⁻² + Qⁿ⁻¹ with n terms (its default, n = 5), or as (I - Q)(I + Q)⁻¹ (the other way
round: that is what peft computes); COFT first shrinks each Q to ‖Q‖ ≤ eps / √blocks.
`boft_r` (stages, blocks, b, b): Q = (B - Bᵀ) / 2, R = (I - Q)(I + Q)⁻¹; in stage i the columns are taken as
(…, 2, 2^i, b / 2), the middle axes exchanged, cut into blocks of b, turned, and put back. `boft_s` (out, 1) is m.
peft knows no strength here; W'(s) = W + s · (W'(1) - W), so that 0 switches it off and 1 is what was trained.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.algorithms import cayley
from farm.lora.delta import Delta, LayerTensors
from farm.lora.formats.metadata import PeftConfig


class InputRotation(Delta):
    __slots__ = ("magnitude", "turns")

    def __init__(self, turns: Tensor, magnitude: Tensor | None = None) -> None:
        super().__init__()
        #: R - I of each block, (stages, blocks, b, b); one block when all inputs share it
        self.turns = turns
        #: (out,)
        self.magnitude = magnitude

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        size = self.turns.shape[-1]
        columns = flat = pristine.reshape(pristine.shape[0], -1)
        for stage, turn in enumerate(self.turns.to(pristine.device)):
            # each half of a block comes from another block; in the first stage a block keeps its own halves
            halves = (2, 2**stage, size // 2) if stage else (1, 1, size)
            paired = columns.reshape(len(columns), -1, *halves).transpose(2, 3)
            blocks = paired.reshape(len(columns), -1, size)
            turned = blocks + torch.einsum("okj,kij->oki", blocks, turn.expand(blocks.shape[1], -1, -1))
            columns = turned.reshape(paired.shape).transpose(2, 3).reshape(flat.shape)
        if self.magnitude is not None:
            columns = columns * self.magnitude.to(pristine.device).view(-1, 1)
        return (columns - flat).mul_(strength).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        yield self.turns
        if self.magnitude is not None:
            yield self.magnitude


def read_oft(layer: LayerTensors) -> Delta:
    packed = layer.read("oft_r")
    config = layer.peft or PeftConfig()
    # the size of a block, from the number of entries above its diagonal
    size = round((1 + (1 + 8 * packed.shape[1]) ** 0.5) / 2)
    rows, columns = torch.triu_indices(size, size, 1)
    skew = packed.new_zeros(len(packed), size, size)
    skew[:, rows, columns] = packed
    skew = skew - skew.transpose(1, 2)
    if config.coft:
        limit = config.coft_eps / len(packed) ** 0.5
        norm = torch.linalg.vector_norm(skew, dim=(1, 2), keepdim=True)
        skew = torch.where(norm <= limit, skew, skew * (limit / norm))
    if config.neumann:
        turns = layer.finite("oft_r", _series(skew, config.neumann_terms))
    else:
        turns = cayley.turns(layer, "oft_r", -skew)
    return InputRotation(turns.unsqueeze(0))


def read_boft(layer: LayerTensors) -> Delta:
    blocks = layer.read("boft_r")
    turns = cayley.turns(layer, "boft_r", (blocks.transpose(-1, -2) - blocks) / 2)
    return InputRotation(turns, layer.bias("boft_s"))


def _series(skew: Tensor, terms: int) -> Tensor:
    """2 Q + 2 Q² + … + 2 Qⁿ⁻² + Qⁿ⁻¹, with peft's exceptions for few terms: 1 gives nothing, 2 gives 2 Q, 3 is as 4."""
    if terms < 3:
        return skew * (2 if terms == 2 else 0)
    power = skew
    found = 2 * skew
    for _ in range(2, max(terms, 4) - 1):
        power = power @ skew
        found = found + 2 * power
    return found + power @ skew
