"""LoRA and LoCon: a change of low rank, W' = W + s · (alpha / r) · B A.

Papers: LoRA (Hu et al., arXiv 2106.09685); LoCon, the same for convolutions, where A holds the kernel (LyCORIS, Yeh et
al., arXiv 2309.14859). Shapes: `lora_up` B (out, r[, 1, 1]), `lora_down` A (r, in[, kh, kw]), `alpha` one value.
With `lora_mid` M (r, r, kh, kw), a Tucker or CP core: change[o, i, …] = (alpha / r) Σ_mn B[o, m] M[m, n, …] A[n, i].
M's first axis pairs with B, so M and A together are again a down factor of rank r.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.delta import Delta, LayerTensors

SUFFIXES = frozenset({"lora_up", "lora_down", "lora_mid", "lora_up_bias", "alpha", "scale", "diff_b"})


class LowRank(Delta):
    """A change that is a product of two factors. alpha / r is folded into `down`."""

    __slots__ = ("down", "up")

    def __init__(self, up: Tensor, down: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        #: (out, r) and (r, in · kernel)
        self.up, self.down = up, down

    def factors(self, max_rank: int | None = None) -> tuple[Tensor, Tensor]:
        if max_rank is None or max_rank >= self.up.shape[1]:
            return self.up, self.down
        return self.up[:, :max_rank], self.down[:max_rank]

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        up, down = (factor.to(pristine.device) for factor in self.factors(max_rank))
        return (up * strength @ down).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.up, self.down)


def read(layer: LayerTensors) -> Delta:
    up, down, mid = layer.read("lora_up"), layer.read("lora_down"), layer.maybe("lora_mid")
    scale = layer.scale(down.shape[0])
    if mid is not None:
        down = torch.einsum("mn...,ni->mi...", mid, down.flatten(1))
    bias = layer.bias("diff_b")
    if bias is None:
        bias = layer.bias("lora_up_bias")
        bias = None if bias is None else bias * scale
    return LowRank(up.flatten(1).contiguous(), down.flatten(1).mul_(scale).contiguous(), bias)
