"""Who competes in `benchmarks.adapters`: our engine, diffusers and peft, each with a UNet of its own and the same files.

Two sets of k adapters, A and B, as a worker meets them: both are loaded from their files, A is put into the weights, B
replaces it, B's strengths change, everything is taken out again. `operations` is that life in order; names that
begin with `_` are what a contender needs in between and are not timed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from farm.lora.layout import Layout
from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import Adapter, load

Operation = tuple[str, Callable[[], object]]


class Ours:
    """The engine, patching."""

    name = "ours"

    def __init__(self, unet: nn.Module, layout: Layout, a: Sequence[Path], b: Sequence[Path]) -> None:
        self.layout, self.a, self.b = layout, a, b
        self.patcher = Patcher({"unet": unet}, layout)
        self.adapters: dict[str, Adapter] = {}

    def operations(self) -> list[Operation]:
        return [
            ("_drop", self.drop),
            ("load", lambda: self.load(self.a)),
            ("_load", lambda: self.load(self.b)),
            ("apply", lambda: self.apply(self.a, 0.8)),
            ("switch", lambda: self.apply(self.b, 0.8)),
            ("step", lambda: self.apply(self.b, random.uniform(0.1, 1))),
            ("unchanged", lambda: self.patcher.apply(self.last, self.adapters, 1)),
            ("restore", self.restore),
        ]

    def drop(self) -> None:
        self.patcher.release()
        self.adapters.clear()

    def load(self, files: Sequence[Path]) -> None:
        for path in files:
            self.adapters[str(path)] = load(path, self.layout, sha256=str(path))

    def apply(self, files: Sequence[Path], strength: float) -> None:
        strengths = dict.fromkeys(self.layout.regions(), (strength,))
        adapters = tuple(AdapterSchedule(sha256=str(path), strengths=strengths) for path in files)
        self.last = StrengthPlan(steps=1, adapters=adapters)
        self.patcher.apply(self.last, self.adapters, 1)

    def restore(self) -> None:
        self.patcher.restore()


class Diffusers:
    """diffusers' own calls: fused, and unfused as far as that needs no other model."""

    name = "diffusers"

    def __init__(self, unet: nn.Module, layout: Layout, a: Sequence[Path], b: Sequence[Path]) -> None:
        from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

        mixin = (
            StableDiffusionXLLoraLoaderMixin if layout.family == "sdxl" else StableDiffusionLoraLoaderMixin
        )
        #: a pipeline with nothing but its UNet
        pipe: Any = type("Pipe", (mixin,), {"_lora_loadable_modules": ["unet"], "components": {}})()
        pipe.unet, pipe.text_encoder, pipe.text_encoder_2, pipe.hf_device_map = unet, None, None, None
        self.pipe, self.a, self.b = pipe, a, b
        self.fused = False

    def operations(self) -> list[Operation]:
        return [
            ("_drop", self.drop),
            ("load", lambda: self.load(self.a)),
            ("_load", lambda: self.load(self.b)),
            ("apply", lambda: self.apply(self.a, 0.8)),
            ("switch", lambda: self.apply(self.b, 0.8)),
            ("step", lambda: self.apply(self.b, random.uniform(0.1, 1))),
            ("restore", self.restore),
            ("unfused switch", lambda: self.set(self.a, 0.8)),
            ("unfused step", lambda: self.set(self.a, random.uniform(0.1, 1))),
            ("hotswap", self.hotswap),
        ]

    def drop(self) -> None:
        self.restore()
        self.pipe.unload_lora_weights()

    def load(self, files: Sequence[Path]) -> None:
        for path in files:
            self.pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=path.stem)

    def set(self, files: Sequence[Path], strength: float) -> None:
        self.pipe.set_adapters([path.stem for path in files], [strength] * len(files))

    def apply(self, files: Sequence[Path], strength: float) -> None:
        self.restore()
        self.set(files, strength)
        self.pipe.fuse_lora(components=["unet"], adapter_names=[path.stem for path in files])
        self.fused = True

    def restore(self) -> None:
        if self.fused:
            self.pipe.unfuse_lora(components=["unet"])
        self.fused = False

    def hotswap(self) -> None:
        """B's files into the places of A, unfused."""
        for old, new in zip(self.a, self.b, strict=True):
            self.pipe.load_lora_weights(new.parent, weight_name=new.name, adapter_name=old.stem, hotswap=True)


class Peft:
    """peft's own calls: merge and unmerge. Its files lie in folders beside kohya's, with the same values."""

    name = "peft"

    def __init__(self, unet: nn.Module, layout: Layout, a: Sequence[Path], b: Sequence[Path]) -> None:
        self.base: Any = unet
        self.a, self.b = a, b
        self.model: Any = None
        self.merged = False

    def operations(self) -> list[Operation]:
        return [
            ("_drop", self.drop),
            ("load", lambda: self.load(self.a)),
            ("_load", lambda: self.load(self.b)),
            ("apply", lambda: self.apply(self.a, 0.8)),
            ("switch", lambda: self.apply(self.b, 0.8)),
            ("step", lambda: self.apply(self.b, random.uniform(0.1, 1))),
            ("restore", self.restore),
        ]

    def drop(self) -> None:
        self.restore()
        if self.model is not None:
            self.base, self.model = self.model.unload(), None

    def load(self, files: Sequence[Path]) -> None:
        from peft import PeftModel

        for path in files:
            folder = str(path.with_suffix(""))
            if self.model is None:
                self.model = PeftModel.from_pretrained(self.base, folder, adapter_name=path.stem)
            else:
                self.model.load_adapter(folder, adapter_name=path.stem)

    def apply(self, files: Sequence[Path], strength: float) -> None:
        self.restore()
        names = [path.stem for path in files]
        self.model.base_model.set_adapter(names, inference_mode=True)
        for module in self.model.modules():
            if hasattr(module, "set_scale"):
                for name in names:
                    module.set_scale(name, strength)
        self.model.merge_adapter(names)
        self.merged = True

    def restore(self) -> None:
        if self.merged:
            self.model.unmerge_adapter()
        self.merged = False


ALL: tuple[type[Any], ...] = (Ours, Diffusers, Peft)
