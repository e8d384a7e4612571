"""DoRA: the direction of W + change, at a learned magnitude: W' = m · V / ‖V‖ with V = W + (alpha / r) · B A.

Paper: DoRA (Liu et al., arXiv 2402.09353). It stands on top of LoRA, LoHa, LoKr, GLoRA, OFT or BOFT. Magnitudes,
`dora_scale`, are per output (out, 1, …), as LyCORIS and peft write them, or per input (1, in, …), as old LyCORIS and
OneTrainer did; the norm runs over all other axes. Their number tells which, on square layers their shape, and one that
is flat there is per input. `lora_magnitude` is peft's name: (out,) for linear layers, (1, out, 1, 1) for convolutions.
It is not linear in the strength, and trainers differ away from 1; here W'(s) = W + s · (W'(1) - W), so that 0 switches
it off and 1 is what was trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from farm.lora.delta import Delta, LayerTensors


class Dora(Delta):
    """Another algorithm's change, with the magnitudes of its result replaced."""

    __slots__ = ("inner", "magnitude", "per_output")

    def __init__(self, inner: Delta, magnitude: Tensor, *, per_output: bool) -> None:
        super().__init__(inner.bias, inner.bias_factor)
        self.inner = inner
        #: (out,) or (in,)
        self.magnitude = magnitude
        self.per_output = per_output

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor:
        inner = self.inner.change(pristine, 1.0, max_rank)
        direction = pristine.clone() if inner is None else inner.add_(pristine)
        axis = 0 if self.per_output else 1
        others = [d for d in range(pristine.dim()) if d != axis]
        norm = torch.linalg.vector_norm(direction, dim=others, keepdim=True)
        magnitude = self.magnitude.to(pristine.device).view(norm.shape)
        return (
            direction.mul_(magnitude / (norm + torch.finfo(torch.float32).eps)).sub_(pristine).mul_(strength)
        )

    def tensors(self) -> Iterator[Tensor]:
        yield self.magnitude
        yield from self.inner.tensors()


def wrap(layer: LayerTensors, inner: Delta) -> Delta:
    """`inner` with the magnitudes that the file has for it; `inner` itself when it has none."""
    theirs = layer.maybe("dora_scale")
    if theirs is not None:
        return Dora(inner, theirs.reshape(-1), per_output=_per_output(tuple(theirs.shape), layer.shape))
    peft = layer.maybe("lora_magnitude")
    return inner if peft is None else Dora(inner, peft.reshape(-1), per_output=True)


def _per_output(shape: tuple[int, ...], layer: tuple[int, ...]) -> bool:
    count = prod(shape)
    if layer[0] != layer[1]:
        return count == layer[0]
    return len(shape) >= 2 and shape[0] == count
