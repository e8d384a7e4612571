"""LoHa: the Hadamard product of two low-rank matrices, W' = W + s · (alpha / r) · (A1 B1) ∘ (A2 B2).

Paper: FedPara (Hyeon-Woo et al., arXiv 2108.06098), as used by LyCORIS (Yeh et al., arXiv 2309.14859).
Shapes: `hada_w1_a`, `hada_w2_a` (out, r); `hada_w1_b`, `hada_w2_b` (r, in · kernel). In Tucker form `hada_t1`, `hada_t2`
(r, r, kh, kw) stand between, and the a factors are transposed: side[p, q, …] = Σ_ij t[i, j, …] a[i, p] b[j, q].
LyCORIS' own merging applies alpha / r twice; its training applies it once, which is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.algorithms import dora
from farm.lora.delta import Delta, LayerTensors

SUFFIXES = frozenset(
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha", "scale", "diff_b"}
    | dora.SUFFIXES
)


class LoHa(Delta):
    __slots__ = ("scale", "sides")

    def __init__(self, sides: tuple[tuple[Tensor, Tensor], ...], scale: float, bias: Tensor | None) -> None:
        super().__init__(bias)
        #: twice (out, r) and (r, in · kernel)
        self.sides = sides
        self.scale = scale

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        first, second = (a.to(pristine.device) @ b.to(pristine.device) for a, b in self.sides)
        return first.mul_(second).mul_(self.scale * strength).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        for a, b in self.sides:
            yield from (a, b)


def read(layer: LayerTensors) -> Delta:
    sides = tuple(_side(layer, n) for n in ("1", "2"))
    rank = layer.read("hada_w1_b").shape[0]
    return dora.wrap(layer, LoHa(sides, layer.scale(rank), layer.bias("diff_b")))


def _side(layer: LayerTensors, n: str) -> tuple[Tensor, Tensor]:
    a, b, core = layer.read(f"hada_w{n}_a"), layer.read(f"hada_w{n}_b"), layer.maybe(f"hada_t{n}")
    if core is None:
        return a, b
    return a.T.contiguous(), torch.einsum("ij...,jq->iq...", core, b).flatten(1).contiguous()
