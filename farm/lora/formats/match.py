"""Finds the layers of a model that a file's modules name, and says in words why a file does not fit a model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from farm.errors import BadRequest
from farm.lora.formats.applied import APPLIED, not_applied
from farm.lora.formats.detect import cross_attention_width, family_name
from farm.lora.formats.header import TensorInfo
from farm.lora.formats.inspect import AdapterInfo
from farm.lora.formats.schemes import DENOISER, address, components, flatten, name_table
from farm.lora.formats.schemes.rows import Target, own
from farm.lora.formats.shapes import contradiction
from farm.lora.formats.suffixes import algorithm_of, group
from farm.lora.layout import Layer, Layout, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFile:
    """The tensors of a file that change one layer."""

    algorithm: str
    #: module name as in the file
    module: str
    #: our suffix -> key in the file
    keys: Mapping[str, str]
    #: shape of the weight that they change; the layer's own unless the module stands for rows of several
    shape: tuple[int, ...]
    #: the rows of that weight, from top to bottom; empty when it is the layer's
    pieces: tuple[Rows, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How a file's modules meet a model's layers."""

    #: by layer name, in the layout's order
    layers: Mapping[str, LayerFile]
    #: modules of the file that this model lacks
    missed: tuple[str, ...]
    #: sentences about modules that name a layer and contradict it
    mismatched: tuple[str, ...]
    #: fused modules whose layers have modules of their own in the same file, which count
    doubled: tuple[str, ...] = ()
    #: values that the file's cross-attention reads, when its shapes tell
    cross_attention: int | None = None

    @property
    def modules(self) -> int:
        """How many modules of the file change a layer."""
        return len({file.module for file in self.layers.values()})


def match(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], layout: Layout) -> Match:
    """Layers of `layout` for the modules of a file; reads shapes only."""
    grouped = group(tensors)
    finder = _Finder(layout, grouped.modules)
    targets = {module: finder.find(module) for module in grouped.modules}
    found: dict[str, LayerFile] = {}
    missed = [module for module, wanted in targets.items() if not wanted]
    doubled: list[str] = []
    mismatched: list[str] = []
    # modules of one layer come first: a fused one beside them says the same again
    for module in sorted(targets, key=lambda module: max(map(len, targets[module]), default=0)):
        keys = grouped.modules[module]
        algorithm = algorithm_of(keys, tensors)
        if algorithm is None and targets[module]:
            mismatched.append(
                f"{module}: its tensors ({', '.join(sorted(keys))}) make no known adapter together"
            )
            continue
        for target in targets[module]:
            names = dict.fromkeys(rows.layer for rows in target)
            layers = [layout.layers[name] for name in names]
            taken = [found[name].module for name in names if name in found]
            shape = (sum(rows.stop - rows.start for rows in target), *layers[0].shape[1:])
            if len(names) == len(taken) > 1:
                doubled.append(module)
            elif taken:
                mismatched.append(f"{module}: {taken[0]} changes the same layer, {layers[0].name}")
            elif problem := contradiction(algorithm or "", keys, tensors, shape, layers[0].bias):
                more = _MORE_INPUTS if _widened(keys, tensors, shape) else ""
                mismatched.append(f"{module}: {problem}{more}")
            else:
                file = LayerFile(
                    algorithm=algorithm or "",
                    module=module,
                    keys=keys,
                    shape=shape,
                    pieces=target if len(target) > 1 else (),
                )
                found |= dict.fromkeys(names, file)
    return Match(
        layers={name: found[name] for name in layout.layers if name in found},
        missed=tuple(missed),
        mismatched=tuple(dict.fromkeys(mismatched)),
        doubled=tuple(dict.fromkeys(doubled)),
        cross_attention=cross_attention_width(grouped.modules, tensors),
    )


def layer_finder(layout: Layout) -> Callable[[str], Layer | None]:
    """Finds the layer that a module name points to; none for a name that stands for parts of layers."""
    finder = _Finder(layout, ())

    def find(module: str) -> Layer | None:
        found = [layout.layers[rows.layer] for target in finder.find(module) for rows in target]
        return found[0] if len(found) == 1 else None

    return find


def check(info: AdapterInfo, match: Match, layout: Layout, name: str) -> tuple[str, ...]:
    """Warnings about adapter `name` on this model; raises BadRequest when it cannot be applied as its author meant."""
    other = info.base_model not in (layout.family, "unknown")
    if match.mismatched:
        width = _cross_attention(layout)
        foreign = None not in (width, match.cross_attention) and width != match.cross_attention
        if other or foreign or len(match.mismatched) > match.modules:
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
        total = len(match.missed) + match.modules + len(match.doubled)
        warnings.append(
            f"{name} misses {len(match.missed)} of its {total} layers: this model lacks them "
            f"(first: {', '.join(match.missed[:_NAMED])})"
        )
    if match.doubled:
        warnings.append(
            f"{name} has {len(match.doubled)} fused modules beside modules for each of their layers, which are used "
            f"(first: {match.doubled[0]})"
        )
    return tuple(warnings)


#: how many of the modules that a model lacks are named
_NAMED = 3
_UNET_CROSS = re.compile(r"attentions\..*attn2\.to_k$")
_MORE_INPUTS = ", so it is made for a variant of the model with more input channels (control, inpainting)"
_CHOOSE = "choose an adapter that was trained for this model, or another model"


def _widened(keys: Mapping[str, str], tensors: Mapping[str, TensorInfo], shape: tuple[int, ...]) -> bool:
    """Whether a LoRA differs from its layer in reading more inputs alone."""
    if not {"lora_up", "lora_down"} <= keys.keys() or len(shape) != 2:
        return False
    up, down = tensors[keys["lora_up"]].shape, tensors[keys["lora_down"]].shape
    return len(down) == 2 and up[:1] == shape[:1] and down[1] > shape[1] and down[1] % shape[1] == 0


class _Finder:
    """Looks up what the modules of one file change in one model."""

    def __init__(self, layout: Layout, modules: Iterable[str]) -> None:
        self._layout = layout
        self._tables = {component: name_table(layout, component) for component in layout.components}
        named = {address(module).component for module in modules}
        # a file that names the second of two experts means the first by the other name
        self._denoisers = layout.denoisers[: 1 if set(layout.denoisers[1:]) & named else None]

    def find(self, module: str) -> tuple[Target, ...]:
        """What a module changes: one target, or one in each denoiser when it may be for either; none when the model
        lacks it."""
        at = address(module)
        found = {
            component: target
            for component in components(self._layout, at.component)
            if (target := self._look(component, at.path))
        }
        either = tuple(target for component, target in found.items() if component in self._denoisers)
        return either or tuple(found.values())[:1]

    def _look(self, component: str, path: str) -> Target | None:
        exact = self._layout.layers.get(f"{component}.{path}")
        return own(exact) if exact else self._tables[component].get(flatten(path))


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
    return next((layer.shape[1] for layer in layers if _UNET_CROSS.search(layer.path)), None)


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
