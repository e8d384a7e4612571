"""GLoRA: a low-rank change that also reads the pristine weight, W' = W + s · (alpha / r) · (W A1 A2 + B1 B2).

Paper: One-for-All (Chavan et al., arXiv 2306.07967), as used by LyCORIS (Yeh et al., arXiv 2309.14859).
New shapes: `a1` (in, r), `a2` (r, in), `b1` (out, r), `b2` (r, in[, kh, kw]). Old ones have the two of each pair
exchanged: a1 (r, in), a2 (in, r), b1 (r, in[, kh, kw]), b2 (out, r). The shapes tell which; where both readings are
possible, the new one counts. `bm` (r, r, kh, kw) is a Tucker core between B1 and B2, which LyCORIS reads. On
convolutions the product with W runs over the input channels alone. It is linear in the strength, and always of the
pristine weight, so several adapters add up in any order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.algorithms import dora, residual
from farm.lora.algorithms.factors import Factored
from farm.lora.delta import Delta, LayerTensors


class GLoRA(Delta):
    __slots__ = ("added", "inputs", "scale")

    def __init__(
        self, inputs: tuple[Tensor, Tensor], added: Factored, scale: float, bias: Tensor | None
    ) -> None:
        super().__init__(bias)
        #: (in, r) and (r, in) on the side of the weight
        self.inputs = inputs
        #: (out, in · kernel)
        self.added = added
        self.scale = scale

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        into, out_of = (side.to(pristine.device) for side in self.inputs)
        # through the rank and never through (in, in), which may be larger than the layer
        narrow = torch.einsum("oi...,ir->or...", pristine, into[:, :max_rank])
        found = torch.einsum("or...,ri->oi...", narrow, out_of[:max_rank])
        return found.add_(self.added.matrix(pristine.device, max_rank).view(found.shape)).mul_(
            self.scale * strength
        )

    def tensors(self) -> Iterator[Tensor]:
        yield from self.inputs
        yield from self.added.tensors()


def read(layer: LayerTensors) -> Delta:
    a1, a2, b1, b2 = (layer.read(name) for name in ("a1", "a2", "b1", "b2"))
    if not _is_new(layer, a1, a2, b1, b2):
        a1, a2, b1, b2 = a2, a1, b2, b1
    scale = layer.scale(a2.shape[0])
    found = GLoRA(
        (a1.flatten(1), a2.flatten(1)),
        Factored(b1.flatten(1), b2.flatten(1), layer.maybe("bm")),
        scale,
        layer.bias("diff_b"),
    )
    return dora.wrap(layer, residual.wrap(layer, found, scale))


def _is_new(layer: LayerTensors, a1: Tensor, a2: Tensor, b1: Tensor, b2: Tensor) -> bool:
    one_rank = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    return one_rank and b1.shape[0] == layer.shape[0] and a1.shape[0] == layer.shape[1]
