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

from farm.lora.algorithms import dora
from farm.lora.delta import Delta, LayerTensors

SUFFIXES = frozenset(
    {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2"}
    | {"alpha", "scale", "diff_b"}
    | dora.SUFFIXES
)


class LoKr(Delta):
    __slots__ = ("first", "second")

    def __init__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> None:
        super().__init__(bias)
        #: (a, c) and (b, d · kernel), with the scale folded into the first
        self.first, self.second = first, second

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        # columns run over (c, d, kernel), which is the memory order of (in, kernel)
        first, second = (side.to(pristine.device) for side in (self.first, self.second))
        return torch.kron(first * strength, second).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.first, self.second)


def read(layer: LayerTensors) -> Delta:
    first, first_rank = _side(layer, "1")
    second, second_rank = _side(layer, "2")
    scale = layer.scale(second_rank or first_rank or None)
    return dora.wrap(layer, LoKr(first.mul_(scale), second, layer.bias("diff_b")))


def _side(layer: LayerTensors, n: str) -> tuple[Tensor, int]:
    """One side as a matrix, and its rank; 0 when it is stored whole."""
    whole = layer.maybe(f"lokr_w{n}")
    if whole is not None:
        return whole.flatten(1).contiguous(), 0
    a, b, core = layer.read(f"lokr_w{n}_a"), layer.read(f"lokr_w{n}_b"), layer.maybe(f"lokr_t{n}")
    if core is not None:
        return torch.einsum("ij...,ip,jq->pq...", core, a, b).flatten(1).contiguous(), b.shape[0]
    return a @ b.flatten(1), b.shape[0]
