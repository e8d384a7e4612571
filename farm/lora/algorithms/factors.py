"""A matrix that a file stores whole, as a product of two, or with a Tucker core between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from farm.lora.delta import LayerTensors


@dataclass(frozen=True, slots=True)
class Factored:
    """(out, in · kernel) = up @ down, or Σ_mn up[o, m] core[m, n, …] down[n, i]; kept as stored, so as small as it is."""

    #: (out, r), or the whole matrix
    up: Tensor
    #: (r, in · kernel), or (r, in) beside a core
    down: Tensor | None = None
    #: (r, r, *kernel)
    core: Tensor | None = None

    @property
    def rank(self) -> int | None:
        """None for a matrix that is stored whole."""
        return None if self.down is None else self.down.shape[0]

    def matrix(self, device: torch.device, max_rank: int | None = None) -> Tensor:
        """The product of its first `max_rank` ranks; a whole matrix has no ranks and is given as it is."""
        up = self.up.to(device)
        if self.down is None:
            return up
        down = self.down.to(device)
        if self.core is not None:
            down = with_core(self.core[:max_rank].to(device), down)
        return up[:, :max_rank] @ down[:max_rank]

    def tensors(self) -> Iterator[Tensor]:
        yield from (tensor for tensor in (self.up, self.down, self.core) if tensor is not None)


def with_core(core: Tensor, down: Tensor) -> Tensor:
    """A down factor (r, in · kernel) of a core (r, n, *kernel) and a down factor (n, in)."""
    return torch.einsum("mn...,ni->mi...", core, down).flatten(1)


def side(layer: LayerTensors, a: str, b: str, core: str) -> Factored:
    """LyCORIS' pairs: a (out, r), b (r, in · kernel); beside a core a is (r, out), the other way round."""
    first, second, between = layer.read(a).flatten(1), layer.read(b).flatten(1), layer.maybe(core)
    return Factored(first if between is None else first.T.contiguous(), second, between)
