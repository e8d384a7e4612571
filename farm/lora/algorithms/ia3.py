"""(IA)³: learned scales of a layer's outputs or inputs, W' = W ∘ (1 + s · w).

Paper: T-Few (Liu et al., arXiv 2205.05638). LyCORIS stores `weight` (dim,), for convolutions (1, dim, 1, 1), and
`on_input`: 1 scales inputs, 0 outputs; the stored value is the difference from 1, and the bias stays as it is. peft stores
the factor itself, W' = W ∘ (1 + s · (l - 1)), as `ia3_l`: (1, in) scales the inputs of a feed-forward layer, (out, 1)
outputs and their bias; convolutions have (1, dim, 1, 1) for both, and where the number does not tell, the configuration
does. No alpha.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from torch import Tensor

from farm.errors import BadRequest
from farm.lora.delta import Delta, LayerTensors


class IA3(Delta):
    __slots__ = ("axis", "relative")

    def __init__(self, relative: Tensor, axis: int, *, bias_too: bool) -> None:
        super().__init__(bias_factor=relative if bias_too else None)
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
    if theirs is None:
        relative, axis = layer.read("weight").reshape(-1), int(bool(layer.read("on_input").reshape(-1)[0]))
    else:
        relative, axis = theirs.reshape(-1) - 1, _axis(layer, tuple(theirs.shape))
    if axis >= len(layer.shape) or relative.numel() != layer.shape[axis]:
        side = "inputs" if axis else "outputs"
        raise BadRequest(
            f"{layer.module} scales {relative.numel()} {side}, the model's layer has the shape {layer.shape}",
            "choose an adapter that was trained for this model",
            code="bad_tensors",
        )
    return IA3(relative, axis, bias_too=theirs is not None and axis == 0 and layer.has_bias)


def _axis(layer: LayerTensors, shape: tuple[int, ...]) -> int:
    """0 for outputs, 1 for inputs."""
    count = prod(shape)
    if len(layer.shape) < 2 or layer.shape[0] != layer.shape[1]:
        return 0 if count == layer.shape[0] else 1
    if len(shape) == 2:
        return 0 if shape[1] == 1 else 1
    feedforward = layer.peft.is_feedforward(layer.path) if layer.peft else None
    if feedforward is None:
        layer.warn(
            "whether it scales inputs or outputs stands in adapter_config.json alone; outputs are taken"
        )
    return int(bool(feedforward))
