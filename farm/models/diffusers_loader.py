"""Adapters by diffusers' own loader instead of our engine: to compare the two, and for what only diffusers reads.

peft puts layers of its own beside the model's; here they get the strengths that a plan asks for, layer by layer and step
by step, so tags mean the same as in the engine. With `fuse` the products are merged into the weights, which then are
plain again; they are put back from kept copies, never by subtraction. Nothing of an adapter stays behind.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any

import diffusers
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor

from farm.errors import BadRequest, Permanent
from farm.lora import tensors
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import PatchReport, layer_module, parameter
from farm.lora.pristine import Pristine, Where
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter
from farm.models import schedulers
from farm.models.load import LoadedModel

#: (adapter, strength) of one layer, sorted
Key = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusersAdapter(Adapter):
    """An adapter as the engine reads it, and its tensors as diffusers takes them."""

    name: str
    state: Mapping[str, Tensor]


def load_adapter(path: Path, layout: Layout, sha256: str, name: str) -> DiffusersAdapter:
    """Read the file for diffusers; checked as the engine checks it.

    Raises:
        BadRequest: see `farm.lora.tensors.load`.
    """
    ours = tensors.load(path, layout, sha256=sha256, name=name)
    state = load_file(path)
    held = {field.name: getattr(ours, field.name) for field in fields(ours)}
    held["bytes"] += sum(tensor.nbytes for tensor in state.values())
    return DiffusersAdapter(**held, name=name, state=state)


def pipeline_of(model: LoadedModel) -> Any:
    """The diffusers pipeline over the modules of `model`: a loader for its adapters; it samples nothing here.

    Raises:
        BadRequest: diffusers has no loader for adapters of this family.
    """
    if model.pipeline is not None:
        if not hasattr(model.pipeline, "load_lora_weights"):
            raise BadRequest(
                f"diffusers loads no adapters for {model.info.name}",
                "switch lora_force_diffusers off",
                code="diffusers_cannot",
            )
        return model.pipeline
    cls: Any = getattr(diffusers, model.info.pipeline)
    parts = {"unet": model.unet, "vae": model.vae, **model.text_encoders}
    tokenizers = {name.replace("text_encoder", "tokenizer"): one for name, one in model.tokenizers.items()}
    extra = {} if model.info.pipeline == "StableDiffusionXLPipeline" else _NO_CHECKER
    scheduler = schedulers.bare_scheduler("ddim", model.scheduler_config)
    return cls(**parts, **tokenizers, **extra, scheduler=scheduler)


_NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


class DiffusersPatcher:
    """Puts the strengths of a plan into peft's layers. Not for several threads; apply between two forward passes."""

    mixes = False

    def __init__(
        self, pipeline: Any, layout: Layout, modules: Mapping[str, Any], *, fuse: bool, pristine: Where
    ):
        self._pipeline = pipeline
        self._layout = layout
        self._modules = modules
        self._fuse = fuse
        self._pristine = Pristine(pristine)
        self._loaded: dict[str, str] = {}
        #: peft's layers, where the model's stood
        self._touched: tuple[tuple[Layer, BaseTunerLayer], ...] = ()
        #: what each layer has now
        self._keys: dict[str, Key] = {}

    def apply(
        self,
        plan: StrengthPlan,
        adapters: Mapping[str, DiffusersAdapter],
        step: int,
        components: Collection[str] | None = None,
    ) -> PatchReport:
        """Make the layers of `components` what `plan` wants while step `step` is denoised.

        Raises:
            BadRequest: diffusers cannot read an adapter, or the plan asks for some of its ranks only.
        """
        began, changed = perf_counter(), 0
        self._load(plan, adapters)
        with torch.inference_mode():
            for layer, module in self._layers(components):
                key = self._key(plan, layer, module, step)
                if key != self._keys.get(layer.name):
                    self._write(layer, module, key)
                    changed += 1
        return PatchReport(changed=changed, seconds=perf_counter() - began)

    def restore(self, components: Collection[str] | None = None) -> None:
        """Take all adapters out: the model is the checkpoint again, bit for bit."""
        if components is not None:
            with torch.inference_mode():
                for layer, module in self._layers(components):
                    self._write(layer, module, ())
            return
        if self._loaded:
            self.restore(self._layout.components)
            self._pipeline.unload_lora_weights()
            self._loaded.clear()
            self._touched = ()
        self._keys.clear()

    def release(self) -> None:
        """Restore, and free the copies of fused weights."""
        names = tuple(self._keys)
        self.restore()
        for name in names:
            self._pristine.forget(f"{name}.weight")

    def _load(self, plan: StrengthPlan, adapters: Mapping[str, DiffusersAdapter]) -> None:
        wanted = {schedule.sha256 for schedule in plan.adapters}
        if self._loaded.keys() - wanted:
            self.restore()
        if wanted - self._loaded.keys():
            self.restore(self._layout.components)
            self._keys.clear()  # what is loaded begins at strength 1, everywhere
            self._touched = ()
        for schedule in plan.adapters:
            adapter = adapters[schedule.sha256]
            sha256 = schedule.sha256
            if schedule.max_rank is not None:
                raise BadRequest(
                    f"{adapter.name}: diffusers cannot use the first {schedule.max_rank} ranks alone",
                    "leave out `dyn`, or switch lora_force_diffusers off",
                    code="diffusers_cannot",
                )
            if sha256 not in self._loaded:
                self._loaded[sha256] = self._take(adapter, f"farm_{sha256[:16]}")
        if self._loaded and not self._touched:
            self._touched = tuple(self._find())

    def _take(self, adapter: DiffusersAdapter, name: str) -> str:
        try:
            with warnings.catch_warnings():
                # several adapters beside one another are what we want
                warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
                self._pipeline.load_lora_weights(dict(adapter.state), adapter_name=name)
        except (ValueError, KeyError, RuntimeError, AttributeError, IndexError) as error:
            # half of it may be in the model; what other adapters did was put back before
            self._pipeline.unload_lora_weights()
            self._loaded.clear()
            said = str(error).strip().splitlines()
            raise BadRequest(
                f"diffusers cannot read {adapter.name}: {said[0][:200] if said else type(error).__name__}",
                "switch lora_force_diffusers off to use Farm's own engine",
                code="diffusers_cannot",
            ) from error
        return name

    def _layers(self, components: Collection[str] | None) -> Iterator[tuple[Layer, BaseTunerLayer]]:
        """Layers that an adapter has touched, of `components`."""
        for layer, module in self._touched:
            if components is None or layer.component in components:
                yield layer, module

    def _find(self) -> Iterator[tuple[Layer, BaseTunerLayer]]:
        for layer in self._layout.layers.values():
            if layer.component in self._modules:
                module = layer_module(self._modules[layer.component], layer)
                if isinstance(module, BaseTunerLayer):
                    yield layer, module

    def _key(self, plan: StrengthPlan, layer: Layer, module: Any, step: int) -> Key:
        strengths = plan.at(layer.region, step)
        found = [
            (self._loaded[schedule.sha256], strength)
            for schedule, strength in zip(plan.adapters, strengths, strict=True)
            if strength != 0 and self._loaded[schedule.sha256] in module.scaling
        ]
        totals: dict[str, float] = {}
        for name, strength in found:
            totals[name] = totals.get(name, 0.0) + strength
        return tuple(sorted(totals.items()))

    def _write(self, layer: Layer, module: Any, key: Key) -> None:
        if module.merged:
            self._unmerge(layer, module)
        for name, strength in key:
            module.set_scale(name, strength)
        module.enable_adapters(bool(key))
        if key:
            module.set_adapter([name for name, _ in key], inference_mode=True)
            if self._fuse:
                self._pristine.keep(f"{layer.name}.weight", parameter(module.base_layer, "weight"))
                module.merge(adapter_names=[name for name, _ in key])
                if not module.merged:
                    raise Permanent(f"peft did not merge into {layer.name}", "switch lora_fuse_diffusers off")
        self._keys[layer.name] = key

    def _unmerge(self, layer: Layer, module: Any) -> None:
        weight = parameter(module.base_layer, "weight")
        weight.copy_(self._pristine.get(f"{layer.name}.weight", weight))
        module.merged_adapters.clear()
