"""What has to be put into one LoRA: each layer's summed change, of a set of adapters or between two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.arithmetic import Term, dense_change
from farm.lora.layout import Layer, Layout
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter

#: a layer's `weight` or `bias`, whatever its dtype and device; None when the model has none
Weights = Callable[[Layer, str], Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change of one layer: U D + dense, and that of its bias."""

    layer: Layer
    #: (out, Σ r) and (Σ r, everything else), strengths folded in
    factors: tuple[Tensor, Tensor] | None = None
    #: float32, in the shape of the weight
    dense: Tensor | None = None
    #: (out,)
    bias: Tensor | None = None


def layer_terms(plan: StrengthPlan, adapters: Mapping[str, Adapter], layer: Layer) -> list[Term]:
    """What `plan` does to a layer at its first step, in the order of the plan."""
    return [
        Term(adapters[schedule.sha256].deltas[layer.name], strength, schedule.max_rank)
        for schedule, strength in zip(plan.adapters, plan.at(layer.region, 1), strict=True)
        if strength and layer.name in adapters[schedule.sha256].deltas
    ]


def changed_layers(plan: StrengthPlan, adapters: Mapping[str, Adapter], layout: Layout) -> list[Layer]:
    """Layers that `plan` changes, in the layout's order."""
    return [layer for layer in layout.layers.values() if layer_terms(plan, adapters, layer)]


def needs_pristine(plan: StrengthPlan, adapters: Mapping[str, Adapter], layout: Layout) -> bool:
    """Whether `of_adapters` will ask for weights."""
    return any(
        term.delta.factors(term.max_rank) is None
        for layer in layout.layers.values()
        for term in layer_terms(plan, adapters, layer)
    )


def of_adapters(
    plan: StrengthPlan, adapters: Mapping[str, Adapter], layout: Layout, pristine: Weights
) -> Iterator[Change]:
    """The sum of a set of adapters, layer by layer. `pristine` is asked only for layers with a change that is no
    product of two factors."""
    for layer in changed_layers(plan, adapters, layout):
        yield _sum(layer, layer_terms(plan, adapters, layer), pristine, layout)


def of_models(layout: Layout, first: Weights, second: Weights) -> Iterator[Change]:
    """Second minus first, layer by layer; equal layers are left out.

    Raises:
        BadRequest: a layer of the second model is missing or has another shape.
    """
    for layer in layout.layers.values():
        weight = _difference(layer, "weight", first, second)
        bias = _difference(layer, "bias", first, second) if layer.bias else None
        if weight is not None or bias is not None:
            yield Change(layer=layer, dense=weight, bias=bias)


def _sum(layer: Layer, terms: list[Term], pristine: Weights, layout: Layout) -> Change:
    ups, downs = [], []
    dense: Tensor | None = None
    base: Tensor | None = None
    for term in terms:
        factors = term.delta.factors(term.max_rank)
        if factors is not None:
            ups.append(factors[0] * term.strength)
            downs.append(factors[1])
            continue
        base = _pristine(layer, pristine) if base is None else base
        change = dense_change(term, base, lambda name: _pristine(layout.layers[name], pristine))
        if change is not None:
            dense = change if dense is None else dense.add_(change)
    biases = [change for term in terms for change in _bias(layer, term, pristine)]
    return Change(
        layer=layer,
        factors=(torch.cat(ups, dim=1), torch.cat(downs)) if ups else None,
        dense=dense,
        bias=torch.stack(biases).sum(0) if biases else None,
    )


def _bias(layer: Layer, term: Term, pristine: Weights) -> Iterator[Tensor]:
    added, factor = term.delta.bias, term.delta.bias_factor
    if added is not None:
        yield added * term.strength
    if factor is not None:
        yield _pristine(layer, pristine, "bias") * factor * term.strength


def _pristine(layer: Layer, weights: Weights, word: str = "weight") -> Tensor:
    found = weights(layer, word)
    if found is None:
        raise BadRequest(f"the model has no {word} {layer.name}", "give the whole model", code="bad_model")
    return found.float()


def _difference(layer: Layer, word: str, first: Weights, second: Weights) -> Tensor | None:
    """Difference in float32; None where there is none."""
    before, after = first(layer, word), second(layer, word)
    if before is None and after is None:
        return None
    if before is None or after is None or before.shape != after.shape:
        found = "lacks it" if after is None else f"has {tuple(after.shape)}"
        raise BadRequest(
            f"the two models differ in more than weights: the second {found} at {layer.name}.{word}",
            "give two models of one architecture",
            code="other_model",
        )
    difference = after.float() - before.float()
    return difference if bool(difference.any()) else None
