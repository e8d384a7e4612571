"""(IA)³: learned scales of a layer's outputs or inputs, W' = W ∘ (1 + s · w).

Paper: T-Few (Liu et al., arXiv 2205.05638). LyCORIS stores `weight` (dim,), for convolutions (1, dim, 1, 1), and
`on_input`: 1 scales inputs, 0 outputs; the stored value is the difference from 1. peft stores the factor itself, as
`ia3_l` (out, 1) or (1, in): W' = W ∘ (1 + s · (l - 1)). No alpha; the bias stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from farm.errors import BadRequest
from farm.lora.delta import Delta, LayerTensors

SUFFIXES = frozenset({"weight", "on_input", "ia3_l", "alpha"})


class IA3(Delta):
    __slots__ = ("axis", "relative")

    def __init__(self, relative: Tensor, axis: int) -> None:
        super().__init__()
        #: (dim,), how much more than the weight, along `axis`
        self.relative, self.axis = relative, axis

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        shape = [1] * pristine.dim()
        shape[self.axis] = -1
        return pristine * (self.relative.to(pristine.device) * strength).view(shape)

    def tensors(self) -> Iterator[Tensor]:
        yield self.relative


def read(layer: LayerTensors) -> Delta:
    theirs = layer.maybe("ia3_l")
    if theirs is not None:
        # peft: a row scales the inputs of a feed-forward layer, a column the outputs
        relative, axis = theirs.reshape(-1) - 1, 0 if theirs.shape[0] > 1 else 1
    else:
        relative, axis = layer.read("weight").reshape(-1), int(bool(layer.read("on_input").reshape(-1)[0]))
    if axis >= len(layer.shape) or relative.numel() != layer.shape[axis]:
        side = "inputs" if axis else "outputs"
        raise BadRequest(
            f"{layer.module} scales {relative.numel()} {side}, the model's layer has the shape {layer.shape}",
            "choose an adapter that was trained for this model",
            code="bad_tensors",
        )
    return IA3(relative, axis)
