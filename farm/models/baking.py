"""Adapters baked into a model's files: tensors that no adapter changes are written as they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from farm.errors import BadRequest
from farm.lora.arithmetic import Scratch, Term
from farm.lora.layout import Layer
from farm.lora.merge import Strengths, bake, changes_bias, terms_of
from farm.models.stored import Place, StoredModel


def baked_file(
    model: StoredModel, name: str, adapters: Strengths
) -> tuple[Mapping[str, Tensor], Sequence[Layer]]:
    """All tensors of one of the model's files with the adapters in them, and the layers that changed there.

    Raises:
        BadRequest: an adapter changes a bias that the model does not have.
    """
    file = model.files[name]
    tensors = {key: file.tensor(key) for key in file.header.tensors}
    scratch = Scratch()
    copied: set[str] = set()
    changed = []
    for layer in model.layout.layers.values():
        place = model.places.get((layer.name, "weight"))
        terms = terms_of(adapters, layer) if place is not None and place.file == name else []
        if place is None or not terms:
            continue
        bias_place = _bias_place(model, layer, terms)
        for each in (place, bias_place):
            if each is not None and each.key not in copied:
                tensors[each.key] = tensors[each.key].clone()
                copied.add(each.key)
        weight = _part(tensors, place, layer.shape)
        bias = None if bias_place is None else _part(tensors, bias_place, layer.shape[:1])
        bake(weight, bias, terms, scratch, partial(_unchanged, model))
        place.put(tensors[place.key], weight)
        if bias_place is not None and bias is not None:
            bias_place.put(tensors[bias_place.key], bias)
        changed.append(layer)
    return tensors, changed


def _unchanged(model: StoredModel, name: str) -> Tensor:
    found = model.read(model.layout.layers[name], "weight")
    if found is None:
        raise BadRequest(f"the model has no weight {name}", "give the whole model", code="bad_model")
    return found


def _bias_place(model: StoredModel, layer: Layer, terms: Sequence[Term]) -> Place | None:
    if not changes_bias(terms):
        return None
    place = model.places.get((layer.name, "bias"))
    if place is None or place.file != model.places[layer.name, "weight"].file:
        raise BadRequest(
            f"an adapter changes the bias of {layer.name}, which the model does not have beside its weight",
            "save the model in one file for each component",
            code="bad_model",
        )
    return place


def _part(tensors: Mapping[str, Tensor], place: Place, shape: tuple[int, ...]) -> Tensor:
    return place.cut(tensors[place.key], shape).clone()
