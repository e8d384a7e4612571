"""Finds the layers of a model that a file's modules name, and says in words why a file does not fit a model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from farm.errors import BadRequest
from farm.lora.formats.applied import APPLIED, not_applied
from farm.lora.formats.detect import cross_attention_width, family_name
from farm.lora.formats.header import TensorInfo
from farm.lora.formats.inspect import AdapterInfo
from farm.lora.formats.schemes import DENOISER, Address, address, components, flatten, name_table
from farm.lora.formats.shapes import contradiction
from farm.lora.formats.suffixes import algorithm_of, group
from farm.lora.layout import Layer, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFile:
    """The tensors of a file that change one layer."""

    algorithm: str
    #: module name as in the file
    module: str
    #: our suffix -> key in the file
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How a file's modules meet a model's layers."""

    #: by layer name, in the layout's order
    layers: Mapping[str, LayerFile]
    #: modules of the file that this model lacks
    missed: tuple[str, ...]
    #: sentences about modules that name a layer and contradict it
    mismatched: tuple[str, ...]
    #: values that the file's cross-attention reads, when its shapes tell
    cross_attention: int | None = None


def match(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], layout: Layout) -> Match:
    """Layers of `layout` for the modules of a file; reads shapes only."""
    grouped = group(tensors)
    find = layer_finder(layout)
    found: dict[str, LayerFile] = {}
    missed: list[str] = []
    mismatched: list[str] = []
    for module, keys in grouped.modules.items():
        layer = find(module)
        algorithm = algorithm_of(keys, tensors)
        if layer is None:
            missed.append(module)
        elif algorithm is None:
            mismatched.append(
                f"{module}: its tensors ({', '.join(sorted(keys))}) make no known adapter together"
            )
        elif layer.name in found:
            mismatched.append(f"{module}: {found[layer.name].module} changes the same layer, {layer.name}")
        elif problem := contradiction(algorithm, keys, tensors, layer.shape, layer.bias):
            mismatched.append(f"{module}: {problem}")
        else:
            found[layer.name] = LayerFile(algorithm=algorithm, module=module, keys=keys)
    return Match(
        layers={name: found[name] for name in layout.layers if name in found},
        missed=tuple(missed),
        mismatched=tuple(mismatched),
        cross_attention=cross_attention_width(grouped.modules, tensors),
    )


def layer_finder(layout: Layout) -> Callable[[str], Layer | None]:
    """Finds the layer that a module name of a file points to."""
    tables = {component: name_table(layout, component) for component in layout.components}
    return lambda module: _find(address(module), layout, tables)


def check(info: AdapterInfo, match: Match, layout: Layout, name: str) -> tuple[str, ...]:
    """Warnings about adapter `name` on this model; raises BadRequest when it cannot be applied as its author meant."""
    other = info.base_model not in (layout.family, "unknown")
    if match.mismatched:
        width = _cross_attention(layout)
        foreign = None not in (width, match.cross_attention) and width != match.cross_attention
        if other or foreign or len(match.mismatched) > len(match.layers):
            raise BadRequest(_wrong_model(info, match, layout, name), _CHOOSE, code="wrong_base_model")
        raise BadRequest(
            f"{name} does not fit this model: {match.mismatched[0]}" + _more(len(match.mismatched)),
            "train or convert it again for this model",
            code="bad_shapes",
        )
    if not match.layers or (other and _only_text_fits(match, layout)):
        if other:
            raise BadRequest(_wrong_model(info, match, layout, name), _CHOOSE, code="wrong_base_model")
        raise BadRequest(
            f"{name} changes no layer of this model: none of its {len(match.missed)} modules is in "
            f"{family_name(layout.family)}" + _nearest(match, layout),
            _CHOOSE,
            code="no_layer_matches",
        )
    _refuse_unapplied(match, name)
    warnings = list(info.problems)
    if other:
        warnings.append(
            f"{name} says that it was made for {family_name(info.base_model)}; this model is "
            f"{family_name(layout.family)}, but the shapes fit"
        )
    if match.missed:
        total = len(match.missed) + len(match.layers)
        warnings.append(
            f"{name} misses {len(match.missed)} of its {total} layers: this model lacks them (first: {match.missed[0]})"
        )
    return tuple(warnings)


_CHOOSE = "choose an adapter that was trained for this model, or another model"


def _find(wanted: Address, layout: Layout, tables: Mapping[str, Mapping[str, str]]) -> Layer | None:
    for component in components(layout, wanted.component):
        exact = layout.layers.get(f"{component}.{wanted.path}")
        if exact:
            return exact
        name = tables[component].get(flatten(wanted.path))
        if name:
            return layout.layers[name]
    return None


def _only_text_fits(match: Match, layout: Layout) -> bool:
    """Families share text encoders: layers that fit there prove nothing."""
    fits = any(layout.layers[name].component in layout.denoisers for name in match.layers)
    return not fits and any(address(module).component in ("", DENOISER) for module in match.missed)


def _refuse_unapplied(match: Match, name: str) -> None:
    for file in match.layers.values():
        other = not_applied(file.algorithm, file.keys)
        if other:
            raise BadRequest(
                f"{name} uses {other[0]} (in {file.module}), which Farm recognises but cannot apply",
                f"Farm applies {', '.join(APPLIED)}",
                code="algorithm_not_applied",
            )


def _wrong_model(info: AdapterInfo, match: Match, layout: Layout, name: str) -> str:
    made_for = f"{name} was made for {family_name(info.base_model)}"
    if info.base_model in (layout.family, "unknown"):
        made_for = f"{name} was made for another model than {family_name(layout.family)}"
    ours = _cross_attention(layout)
    theirs = match.cross_attention
    if ours and theirs and ours != theirs:
        return f"{made_for} (its cross-attention reads {theirs} values, this model has {ours})"
    if match.mismatched:
        return f"{made_for} ({match.mismatched[0]})"
    return f"{made_for}, this model is {family_name(layout.family)}"


def _cross_attention(layout: Layout) -> int | None:
    layers = layout.layers.values()
    return next((layer.shape[1] for layer in layers if layer.path.endswith("attn2.to_k")), None)


def _nearest(match: Match, layout: Layout) -> str:
    """The model's layer that looks most like the file's first one: shows at a glance how the names differ."""
    if not match.missed:
        return ""
    first = match.missed[0]
    flat = {flatten(layer.path): layer.path for layer in layout.layers.values()}
    near = difflib.get_close_matches(flatten(address(first).path), flat, n=1, cutoff=0.6)
    return f" (first: {first}" + (f"; nearest in the model: {flat[near[0]]})" if near else ")")


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""
