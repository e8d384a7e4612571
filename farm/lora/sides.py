"""What an adapter's change of a layer is when the weight stays as it is: terms beside the layer, computed from its input.

A change is possible beside a layer when it is linear in the strength and its effect can be had from the layer's input
alone: y = (W0 + s · ΔW) x = W0 x + s · ΔW x. Factors stay factors, so B A costs two thin products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.algorithms.full import Dense
from farm.lora.algorithms.glora import GLoRA
from farm.lora.algorithms.loha import LoHa
from farm.lora.algorithms.lokr import LoKr
from farm.lora.delta import Delta
from farm.lora.layout import Layer, Layout
from farm.lora.tensors import Adapter

_BESIDE = ("linear", "conv")
#: no thin factors, but linear in the strength and independent of the weight
_DENSE = (LoHa, LoKr, Dense)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The terms of one adapter beside one layer, at strength 1: y = W0 (x + E F x) + U D x + C x + b."""

    #: U (out, r) and D (r, in · kernel)
    outer: tuple[Tensor, Tensor] | None = None
    #: E (in, r) and F (r, in), in front of the layer: GLoRA's W0 A1 A2 without reading W0
    inner: tuple[Tensor, Tensor] | None = None
    #: C in the shape of the weight
    dense: Tensor | None = None
    #: b (out,)
    bias: Tensor | None = None


def side_of(delta: Delta, layer: Layer, max_rank: int | None = None) -> Side:
    """The terms of `delta` beside `layer`. Raises BadRequest when it has none."""
    if not _has_side(delta, layer):
        raise BadRequest(*_refusal(delta, layer), code="no_side_branch")
    factors = delta.factors(max_rank)
    if factors is not None:
        return Side(outer=factors, bias=delta.bias)
    if isinstance(delta, GLoRA):
        into, out_of = delta.inputs
        inner = (into[:, :max_rank], out_of[:max_rank] * delta.scale)
        up, down = delta.added.pair(max_rank)
        return Side(outer=(up, down * delta.scale), inner=inner, bias=delta.bias)
    # these read no weight, only its shape and device
    dense = delta.change(torch.zeros(()).expand(layer.shape), 1.0, max_rank)
    return Side(dense=dense, bias=delta.bias)


def why_not(adapters: Mapping[str, Adapter], layout: Layout) -> str:
    """Why these adapters cannot act beside the layers of `layout`, as a sentence; "" when they can."""
    for adapter in adapters.values():
        for name, delta in adapter.deltas.items():
            layer = layout.layers.get(name)
            if layer is not None and not _has_side(delta, layer):
                return ", ".join(_refusal(delta, layer))
    return ""


def _has_side(delta: Delta, layer: Layer) -> bool:
    return layer.kind in _BESIDE and (delta.factors() is not None or isinstance(delta, (GLoRA, *_DENSE)))


def _refusal(delta: Delta, layer: Layer) -> tuple[str, str]:
    what = (
        f"a change of type {type(delta).__name__}"
        if layer.kind in _BESIDE
        else f"the {layer.kind} layer's change"
    )
    return f"{layer.name}: {what} cannot act beside a frozen weight", "use lora_mode patch"
