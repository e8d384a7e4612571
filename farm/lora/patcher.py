"""Owns the weights of one loaded model: writes adapters into them in place, and puts every bit back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from farm.errors import BadRequest, Permanent
from farm.lora.arithmetic import Joined, Scratch, Term, exact_products, join, write, write_bias
from farm.lora.compiled import refuse_freezing
from farm.lora.layout import Layer, Layout, Region
from farm.lora.pristine import Pristine, Where
from farm.lora.quantised import is_quantised, weight_shape
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter

#: (content of an adapter, how many of its ranks, strength); a layer's key is all of them, sorted
Part = tuple[str, int | None, float]
Key = tuple[Part, ...]
#: layer, what is in its weights now, seconds that writing it took
OnLayer = Callable[[str, Key, float], None]
#: the layer holds something between two keys: a change was interrupted
_UNFINISHED: Key = (("", None, 0.0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReport:
    """What one call did."""

    #: layers whose weights were written
    changed: int
    seconds: float


@dataclass(slots=True)
class _Slot:
    """One layer, and what is in its weights now."""

    layer: Layer
    module: nn.Module
    key: Key = ()
    #: factors of the adapters of `parts`, side by side
    joined: Joined | None = None
    parts: tuple[tuple[str, int | None], ...] = ()
    bias_changed: bool = False


class Patcher:
    """Applies strength plans to the modules of one model. Nobody else may write their weights meanwhile.

    Weights are changed in their own storage, so compiled modules and captured graphs stay valid. Every change starts
    from the pristine weight: nothing drifts, and the order of changes and of adapters does not matter, bit for bit.
    Not for several threads; apply between two forward passes.
    """

    #: a weight is the same for all rows of a pass
    mixes = False

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        layout: Layout,
        *,
        pristine: Where = "device",
        files: Mapping[str, Sequence[Path]] | None = None,
        on_layer: OnLayer | None = None,
    ) -> None:
        """`modules` by component name. `files` are the checkpoint's, by component, for `pristine="file"`. `on_layer` is
        told of every write of a layer, for debugging."""
        self._on_layer = on_layer
        self._called = tuple(modules.values())
        self._modules = {name: getattr(module, "_orig_mod", module) for name, module in modules.items()}
        self._layout = layout
        self._pristine = Pristine(pristine, files)
        self._scratch = Scratch()
        self._slots: dict[str, _Slot] = {}
        self._regions: dict[Region, list[Layer]] = {}
        for layer in layout.layers.values():
            if layer.component in self._modules:
                self._regions.setdefault(layer.region, []).append(layer)

    @property
    def pristine_bytes(self) -> int:
        """Memory that the copies of unchanged weights take."""
        return self._pristine.bytes

    def apply(
        self,
        plan: StrengthPlan,
        adapters: Mapping[str, Adapter],
        step: int,
        components: Collection[str] | None = None,
    ) -> PatchReport:
        """Make the weights what `plan` wants while step `step` (1 … steps) is denoised.

        Touches only layers whose adapters or strengths differ from what is in the weights now, of `components` alone
        when given. After an exception `restore` (or another `apply`) puts everything right.

        Raises BadRequest when a layer is quantised, or compiled code would not see the change.
        """
        started = perf_counter()
        refuse_freezing(self._called)
        changed = 0
        with torch.inference_mode(), exact_products():
            for region, layers in self._regions.items():
                if components is not None and region.component not in components:
                    continue
                parts = _parts(plan, region, step)
                for layer in layers:
                    key = tuple(part for part in parts if layer.name in adapters[part[0]].deltas)
                    slot = self._slots.get(layer.name)
                    if key == (slot.key if slot else ()):
                        continue
                    began = perf_counter()
                    slot = slot or self._take(layer)
                    if key:
                        self._write(slot, key, adapters)
                    else:
                        self._restore(slot)
                    changed += 1
                    if self._on_layer is not None:
                        self._on_layer(layer.name, key, perf_counter() - began)
        return PatchReport(changed=changed, seconds=perf_counter() - started)

    def restore(self, components: Collection[str] | None = None) -> PatchReport:
        """Put back the checkpoint's weights, bit for bit; of all components unless some are named."""
        started = perf_counter()
        changed = 0
        with torch.inference_mode():
            for slot in self._slots.values():
                if slot.key and (components is None or slot.layer.component in components):
                    self._restore(slot)
                    changed += 1
        return PatchReport(changed=changed, seconds=perf_counter() - started)

    def release(self) -> None:
        """Restore everything and free the copies and factors that were kept for the next change."""
        self.restore()
        for slot in self._slots.values():
            for name in (f"{slot.layer.name}.weight", f"{slot.layer.name}.bias"):
                self._pristine.forget(name)
        self._slots.clear()
        self._scratch.clear()

    def fingerprint(self) -> str:
        """sha256 over the names and bits of all weights and buffers of all modules."""
        digest = hashlib.sha256()
        for name, tensor in self._all_tensors():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _all_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for component in sorted(self._modules):
            for name, tensor in sorted(self._modules[component].state_dict().items()):
                yield f"{component}.{name}", tensor

    def _take(self, layer: Layer) -> _Slot:
        module = layer_module(self._modules[layer.component], layer)
        if is_quantised(module):
            raise BadRequest(
                f"{layer.name} is quantised ({type(module.weight).__name__}), its weight cannot be written",
                "use lora_mode branch, which lets adapters act beside it",
                code="quantised",
            )
        slot = self._slots[layer.name] = _Slot(layer, module)
        return slot

    def _write(self, slot: _Slot, key: Key, adapters: Mapping[str, Adapter]) -> None:
        terms = [
            Term(adapters[sha256].deltas[slot.layer.name], strength, max_rank)
            for sha256, max_rank, strength in key
        ]
        weight, name = parameter(slot.module, "weight"), f"{slot.layer.name}.weight"
        if not slot.key:
            self._pristine.keep(name, weight)
        parts = tuple((sha256, max_rank) for sha256, max_rank, _ in key)
        if parts != slot.parts or (slot.joined is not None and slot.joined.up.device != weight.device):
            slot.joined, slot.parts = join(terms, weight.device), parts
        slot.key = _UNFINISHED
        pristine = self._pristine.get(name, weight)
        write(weight, pristine, terms, slot.joined, self._scratch, self._pristine_of)
        self._write_bias(slot, terms)
        slot.key = key

    def _pristine_of(self, name: str) -> Tensor:
        """Unchanged weight of a layer, whatever is in it now."""
        layer, slot = self._layout.layers[name], self._slots.get(name)
        module = slot.module if slot else layer_module(self._modules[layer.component], layer)
        weight = parameter(module, "weight")
        return self._pristine.get(f"{name}.weight", weight) if slot and slot.key else weight

    def _write_bias(self, slot: _Slot, terms: Sequence[Term]) -> None:
        wanted = any(term.delta.changes_bias for term in terms)
        if not (wanted or slot.bias_changed):
            return
        bias, name = parameter(slot.module, "bias"), f"{slot.layer.name}.bias"
        if not slot.bias_changed:
            self._pristine.keep(name, bias)
        slot.bias_changed = True
        write_bias(bias, self._pristine.get(name, bias), terms, self._scratch)

    def _restore(self, slot: _Slot) -> None:
        slot.key = _UNFINISHED
        for word in ("weight", "bias") if slot.bias_changed else ("weight",):
            tensor = parameter(slot.module, word)
            tensor.copy_(self._pristine.get(f"{slot.layer.name}.{word}", tensor))
        slot.bias_changed = False
        slot.joined, slot.parts = None, ()
        slot.key = ()


def _parts(plan: StrengthPlan, region: Region, step: int) -> Key:
    """Adapters with a strength in `region` at `step`, in an order that does not depend on the plan's."""
    strengths = plan.at(region, step)
    found = [
        (adapter.sha256, adapter.max_rank, strength)
        for adapter, strength in zip(plan.adapters, strengths, strict=True)
        if strength != 0
    ]
    return tuple(sorted(found, key=lambda part: (part[0], part[1] or 0, part[2])))


def layer_module(root: nn.Module, layer: Layer) -> nn.Module:
    """The module of a layer inside its component. Raises Permanent when the component is not as the layout says.

    Text encoders have a `text_model` level in some versions of transformers only, so both spellings are tried.
    """
    for path in (layer.path, f"text_model.{layer.path}", layer.path.removeprefix("text_model.")):
        try:
            module = root.get_submodule(path)
        except AttributeError:
            continue
        shape = weight_shape(module)
        if shape == layer.shape:
            return module
        found = f"a weight of {shape}" if shape else "no weight"
        raise Permanent(
            f"layer {layer.name} has {found}, its layout says {layer.shape}", "load the model again"
        )
    raise Permanent(f"the model has no layer {layer.name}", "its layout was made from another configuration")


def parameter(module: nn.Module, word: str) -> Tensor:
    """The storage of a module's weight or bias."""
    found = getattr(module, word, None)
    if not isinstance(found, Tensor):
        raise Permanent(
            f"a {type(module).__name__} has no {word}, its layout says it has one", "load the model again"
        )
    return found.data
