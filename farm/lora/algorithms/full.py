"""Full: a stored difference of weight and bias, W' = W + s · diff, b' = b + s · diff_b (LyCORIS' `full`, extractions).

Shapes: `diff` as the weight, `diff_b` as the bias; either may be missing. No alpha.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.lora.delta import Delta, LayerTensors

SUFFIXES = frozenset({"diff", "diff_b", "alpha"})


class Dense(Delta):
    """A change that is stored as it is."""

    __slots__ = ("difference",)

    def __init__(self, difference: Tensor | None, bias: Tensor | None) -> None:
        super().__init__(bias)
        #: kept in float16 or bfloat16 where the file has it so: it is as large as the layer
        self.difference = difference

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor | None:
        if self.difference is None:
            return None
        found = self.difference.to(device=pristine.device, dtype=torch.float32)
        return (found * strength).view(pristine.shape)

    def tensors(self) -> Iterator[Tensor]:
        if self.difference is not None:
            yield self.difference


def read(layer: LayerTensors) -> Delta:
    return Dense(stored(layer, "diff"), layer.bias("diff_b"))


def stored(layer: LayerTensors, suffix: str) -> Tensor | None:
    """The checked tensor in the dtype of the file, in memory of its own."""
    raw, checked = layer.raw(suffix), layer.maybe(suffix)
    return None if raw is None or checked is None else checked.to(raw.dtype)
