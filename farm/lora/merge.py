"""Bakes adapters into a model's weights for good, with the arithmetic of the patcher and without keeping copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from farm.errors import BadRequest
from farm.lora.arithmetic import Scratch, Term, exact_products, join, write, write_bias
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import layer_module, parameter
from farm.lora.tensors import Adapter

#: adapters and the strength of each
Strengths = Sequence[tuple[Adapter, float]]


def merge(modules: Mapping[str, nn.Module], layout: Layout, adapters: Strengths) -> int:
    """Add each adapter at its strength to the weights of `modules` (by component); returns the layers changed.

    Layers of components that are not in `modules` make it raise BadRequest: half of an adapter is not what was asked.
    """
    scratch = Scratch()
    changed = 0

    def weight_of(layer: Layer) -> Tensor:
        return parameter(layer_module(modules[layer.component], layer), "weight")

    # weights are changed one after another: what a later change reads of an earlier layer is kept
    read = {
        rows.layer
        for adapter, s in adapters
        if s
        for delta in adapter.deltas.values()
        for rows in delta.reads
    }
    kept = {
        name: weight_of(layout.layers[name]).clone()
        for name in read
        if layout.layers[name].component in modules
    }
    for layer in layout.layers.values():
        terms = terms_of(adapters, layer)
        if not terms:
            continue
        if layer.component not in modules:
            raise BadRequest(
                f"an adapter changes {layer.component}, which is not loaded", "load the whole model"
            )
        module = layer_module(modules[layer.component], layer)
        bias = parameter(module, "bias") if changes_bias(terms) else None
        bake(parameter(module, "weight"), bias, terms, scratch, kept.__getitem__)
        changed += 1
    return changed


def terms_of(adapters: Strengths, layer: Layer) -> list[Term]:
    """What the adapters do to one layer; empty when nothing."""
    return [
        Term(adapter.deltas[layer.name], s) for adapter, s in adapters if layer.name in adapter.deltas and s
    ]


def changes_bias(terms: Sequence[Term]) -> bool:
    return any(term.delta.changes_bias for term in terms)


def bake(
    weight: Tensor,
    bias: Tensor | None,
    terms: Sequence[Term],
    scratch: Scratch,
    pristine_of: Callable[[str], Tensor],
) -> None:
    """Add `terms` to a layer's weight, and to its bias when there is one, in place. `pristine_of` gives the unchanged
    weight of another layer."""
    with torch.inference_mode(), exact_products():
        write(weight, weight.clone(), terms, join(terms, weight.device), scratch, pristine_of)
        if bias is not None:
            write_bias(bias, bias.clone(), terms, scratch)
