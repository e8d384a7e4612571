"""Bakes adapters into a model's weights for good, with the arithmetic of the patcher and without keeping copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from farm.errors import BadRequest
from farm.lora.arithmetic import Scratch, Term, exact_products, join, write, write_bias
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import layer_module, parameter
from farm.lora.tensors import Adapter


def merge(modules: Mapping[str, nn.Module], layout: Layout, adapters: Sequence[tuple[Adapter, float]]) -> int:
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
    with torch.inference_mode(), exact_products():
        for layer in layout.layers.values():
            terms = [
                Term(adapter.deltas[layer.name], s)
                for adapter, s in adapters
                if layer.name in adapter.deltas and s
            ]
            if not terms:
                continue
            if layer.component not in modules:
                raise BadRequest(
                    f"an adapter changes {layer.component}, which is not loaded", "load the whole model"
                )
            module = layer_module(modules[layer.component], layer)
            weight = parameter(module, "weight")
            write(weight, weight.clone(), terms, join(terms, weight.device), scratch, kept.__getitem__)
            if any(term.delta.changes_bias for term in terms):
                bias = parameter(module, "bias")
                write_bias(bias, bias.clone(), terms, scratch)
            changed += 1
    return changed
