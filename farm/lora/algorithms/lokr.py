"""LoKr: a Kronecker product, W' = W + s · scale · kron(w1, w2).

Paper: KronA (Edalati et al., arXiv 2212.10650), as used by LyCORIS (Yeh et al., arXiv 2309.14859).
Shapes: w1 (a, c) and w2 (b, d[, kh, kw]) with out = a · b, in = c · d. Each is whole (`lokr_w1`, `lokr_w2`) or a product
(`lokr_w1_a` (a, r) @ `lokr_w1_b` (r, c); `lokr_w2_b` of a convolution holds the kernel in its columns), or w2 is in
Tucker form with `lokr_t2` (r, r, kh, kw): w2[p, q, …] = Σ_ij t2[i, j, …] w2_a[i, p] w2_b[j, q].
scale = alpha / r where something is a product; 1 where both are whole, whatever alpha says (some files store 1e10).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.algorithms import dora, residual
from farm.lora.algorithms.factors import Factored, side
from farm.lora.delta import Delta, LayerTensors


class LoKr(Delta):
    __slots__ = ("first", "scale", "second")

    def __init__(self, first: Factored, second: Factored, scale: float, bias: Tensor | None) -> None:
        super().__init__(bias)
        #: (a, c) and (b, d · kernel)
        self.first, self.second = first, second
        self.scale = scale

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        # columns run over (c, d, kernel), which is the memory order of (in, kernel)
        first, second = (each.matrix(pristine.device, max_rank) for each in (self.first, self.second))
        return torch.kron(first * (self.scale * strength), second).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        yield from self.first.tensors()
        yield from self.second.tensors()


def read(layer: LayerTensors) -> Delta:
    first, second = (_side(layer, n) for n in "12")
    scale = layer.scale(second.rank or first.rank)
    return dora.wrap(layer, residual.wrap(layer, LoKr(first, second, scale, layer.bias("diff_b")), scale))


def _side(layer: LayerTensors, n: str) -> Factored:
    whole = layer.maybe(f"lokr_w{n}")
    if whole is not None:
        return Factored(whole.flatten(1).contiguous())
    return side(layer, f"lokr_w{n}_a", f"lokr_w{n}_b", f"lokr_t{n}")
