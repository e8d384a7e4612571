"""Full: a stored difference of weight and bias, W' = W + s · diff, b' = b + s · diff_b (LyCORIS' `full`, extractions).

Shapes: `diff` as the weight, `diff_b` as the bias; either may be missing. No alpha. `set_weight`, a name of ComfyUI's for
what control adapters store (norms of Flux), is the new weight itself: W' = W + s · (set_weight - W).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.delta import Delta, LayerTensors
from farm.lora.formats.suffixes import SCALE


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


class Replacement(Delta):
    """A weight that takes the place of the model's."""

    __slots__ = ("weight",)

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(bias)
        #: in the dtype of the file
        self.weight = weight

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        new = self.weight.to(device=pristine.device, dtype=torch.float32, copy=True).view(pristine.shape)
        return new.sub_(pristine).mul_(strength)

    def tensors(self) -> Iterator[Tensor]:
        yield self.weight


def read(layer: LayerTensors) -> Delta:
    replacement, bias = stored(layer, "set_weight"), layer.bias("diff_b")
    if replacement is None:
        return Dense(stored(layer, "diff"), bias)
    if layer.has("diff"):
        raise BadRequest(
            f"{layer.module} has both a diff and a set_weight",
            "the file contradicts itself",
            code="bad_tensors",
        )
    return Replacement(replacement, bias)


def stored(layer: LayerTensors, suffix: str) -> Tensor | None:
    """The checked tensor in the dtype of the file (float32 when it was scaled), in memory of its own."""
    raw, checked = layer.raw(suffix), layer.maybe(suffix)
    if raw is None or checked is None:
        return None
    return checked if layer.has(suffix + SCALE) else checked.to(raw.dtype)
