"""LoHa: the Hadamard product of two low-rank matrices, W' = W + s · (alpha / r) · (A1 B1) ∘ (A2 B2).

Paper: FedPara (Hyeon-Woo et al., arXiv 2108.06098), as used by LyCORIS (Yeh et al., arXiv 2309.14859).
Shapes: `hada_w1_a`, `hada_w2_a` (out, r); `hada_w1_b`, `hada_w2_b` (r, in · kernel). In Tucker form `hada_t1`, `hada_t2`
(r, r, kh, kw) stand between, and the a factors are transposed: side[p, q, …] = Σ_ij t[i, j, …] a[i, p] b[j, q].
LyCORIS' own merging applies alpha / r twice; its training applies it once, which is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from farm.lora.algorithms import dora, residual
from farm.lora.algorithms.factors import Factored, side
from farm.lora.delta import Delta, LayerTensors


class LoHa(Delta):
    __slots__ = ("scale", "sides")

    def __init__(self, sides: tuple[Factored, Factored], scale: float, bias: Tensor | None) -> None:
        super().__init__(bias)
        #: twice (out, in · kernel)
        self.sides = sides
        self.scale = scale

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        first, second = (each.matrix(pristine.device, max_rank) for each in self.sides)
        return first.mul_(second).mul_(self.scale * strength).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        for each in self.sides:
            yield from each.tensors()


def read(layer: LayerTensors) -> Delta:
    first, second = (side(layer, f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in "12")
    scale = layer.scale(first.rank)
    return dora.wrap(layer, residual.wrap(layer, LoHa((first, second), scale, layer.bias("diff_b")), scale))
