"""What an extraction could not put into its factors: W' = W + s · scale · (factors + residual), sparse or whole.

LyCORIS' extractions with `use_bias` store it as a list of entries of the weight (not of the bias vector, in spite of the
names): `bias_indices` (dimensions, n) in int16, `bias_values` (n,), `bias_size` (dimensions,), where the weight may be
flat, (out, in · kernel). Others store a whole `bias` in the shape of the weight. SD.Next scales it with the factors;
extractions write alpha = r, so both readings are equal. int16 overflows behind 32767: negative numbers are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.delta import Delta, LayerTensors


class WithResidual(Delta):
    """Another algorithm's change and the entries that are missing from it."""

    __slots__ = ("index", "inner", "values")

    def __init__(self, inner: Delta, index: Tensor | None, values: Tensor) -> None:
        super().__init__(inner.bias, inner.bias_factor)
        self.inner = inner
        #: (n,), places in the flat weight; None for all of them
        self.index = index
        #: (n,), with the scale folded in
        self.values = values

    def change(self, pristine: Tensor, strength: float, max_rank: int | None = None) -> Tensor | None:
        change = self.inner.change(pristine, strength, max_rank)
        if change is None:
            return None
        values = self.values.to(change.device)
        if self.index is None:
            return change.add_(values.view(change.shape), alpha=strength)
        change.view(-1).index_add_(0, self.index.to(change.device), values, alpha=strength)
        return change

    def tensors(self) -> Iterator[Tensor]:
        yield from self.inner.tensors()
        yield self.values
        if self.index is not None:
            yield self.index


def wrap(layer: LayerTensors, inner: Delta, scale: float) -> Delta:
    """`inner` with the residual that the file has for it; `inner` itself when it has none."""
    values, whole = layer.maybe("bias_values"), layer.maybe("bias")
    if values is not None:
        return WithResidual(inner, _places(layer), values.reshape(-1).mul_(scale))
    return inner if whole is None else WithResidual(inner, None, whole.reshape(-1).mul_(scale))


def _places(layer: LayerTensors) -> Tensor:
    """(n,), places in the flat weight."""
    indices, size = (layer.raw(suffix) for suffix in ("bias_indices", "bias_size"))
    if indices is None or size is None:
        raise BadRequest(
            f"{layer.module} lacks its bias_indices or bias_size",
            "the file is incomplete",
            code="bad_tensors",
        )
    dimensions = [int(n) for n in size.reshape(-1).tolist()]
    places = indices.to(torch.int64)
    limits = torch.tensor(dimensions).view(-1, 1)
    if (
        min(dimensions) < 1
        or prod(dimensions) != prod(layer.shape)
        or bool(((places < 0) | (places >= limits)).any())
    ):
        raise BadRequest(
            f"{layer.module}: its bias_indices lie outside the weight, which has the shape {layer.shape}",
            "16-bit numbers overflow behind 32767; extract the adapter again without sparse residuals",
            code="bad_tensors",
        )
    flat = torch.zeros(places.shape[1], dtype=torch.int64)
    for dimension, place in zip(dimensions, places, strict=True):
        flat = flat * dimension + place
    return flat
