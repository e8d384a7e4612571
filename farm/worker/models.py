"""A loaded base model with its patcher and the machine that samples it, as the sampling thread keeps it between jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog

from farm.clock import Clock
from farm.lora.branch import Sample, SideBranch
from farm.lora.compiled import compile_in_place
from farm.lora.patcher import Key, Patcher, layer_module
from farm.lora.pristine import Where
from farm.lora.quantised import is_quantised
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter
from farm.models.diffusers_loader import DiffusersPatcher, pipeline_of
from farm.models.load import LoadedModel
from farm.models.machines import Machine, machine_for
from farm.store.trees import Tree
from farm.worker.device import Device
from farm.worker.mode import Mode, Work, changes_of, choose
from farm.worker.rates import ModeRates
from farm.worker.way import LoraWay

log = structlog.get_logger(__name__)


class MeasuredPatcher:
    """Applies adapters in one of several ways, and counts the seconds that it takes, wherever in a step it is called."""

    def __init__(self, loaded: LoadedModel, device: Device, clock: Clock, way: LoraWay, folder: Path):
        """`folder` holds the model's files, for weights that are put back from there."""
        where: Where = "file" if way.fuse_native else where_pristine(device, loaded.bytes)
        self.branch = SideBranch(loaded.modules, loaded.layout)
        self._ways: dict[Mode, Patcher | SideBranch | DiffusersPatcher] = {
            "patch": Patcher(
                loaded.modules, loaded.layout, pristine=where, files=weight_files(loaded, folder),
                on_layer=log_layer if way.debug else None,
            ),
            "branch": self.branch,
        }  # fmt: skip
        if way.diffusers:
            self._ways["diffusers"] = DiffusersPatcher(
                pipeline_of(loaded), loaded.layout, loaded.modules, fuse=way.fuse_diffusers, pristine=where
            )
        self._denoisers = frozenset(loaded.layout.denoisers)
        self._device = device
        self._clock = clock
        self.mode: Mode = "patch"
        self.rates = ModeRates()
        self.seconds = 0.0

    def knows(self, mode: Mode) -> bool:
        """Whether this worker's settings have this way."""
        return mode in self._ways

    def use(self, mode: Mode) -> None:
        """Apply in this way from now on; what was applied in the other one is taken back."""
        if mode != self.mode:
            self._ways[self.mode].release()
            self.mode = mode

    def apply(
        self,
        plan: StrengthPlan,
        adapters: Mapping[str, Any],
        step: int,
        components: Collection[str] | None = None,
    ) -> Any:
        way = self._ways[self.mode]
        report, took = self._counted(lambda: way.apply(plan, adapters, step, components))
        if report.changed and self.mode == "patch" and self._denoisers.intersection(components or ()):
            self.rates.wrote(took, report.changed, first=step == 1)
        return report

    @property
    def mixes(self) -> bool:
        """Whether rows of a pass may have adapters of their own now."""
        return self.mode == "branch"

    def assign(self, samples: Sequence[Sample], components: Collection[str] | None = None) -> Any:
        """See `farm.lora.branch.SideBranch.assign`."""
        return self._counted(lambda: self.branch.assign(samples, components))[0]

    def _counted(self, apply: Callable[[], Any]) -> tuple[Any, float]:
        began = self._clock.monotonic()
        try:
            report = apply()
            if report.changed:
                self._device.wait()
        finally:
            took = self._clock.monotonic() - began
            self.seconds += took
        return report, took

    def restore(self) -> None:
        self._ways[self.mode].restore()

    def release(self) -> None:
        """Restore, and free the copies that were kept for the next change."""
        self._ways[self.mode].release()


class HotModel:
    """One model in memory. Its files stay pinned on disk as long as it lives."""

    def __init__(
        self,
        loaded: LoadedModel,
        tree: Tree,
        device: Device,
        clock: Clock,
        *,
        way: LoraWay,
        compiled: bool = False,
    ):
        self._device = device
        self._tree = tree
        self._denoisers = loaded.layout.denoisers
        self._way = way
        self._no_patch = _why_not_written(loaded)
        if compiled:
            for name in loaded.layout.denoisers:
                compile_in_place(loaded.modules[name])
        self.patcher = MeasuredPatcher(loaded, device, clock, way, tree.path)
        self.machine: Machine | None = machine_for(loaded, self.patcher)

    @property
    def denoisers(self) -> tuple[str, ...]:
        """Components that run at every step."""
        return self._denoisers

    def why_not_written(self, adapters: Mapping[str, Adapter]) -> str:
        """Why adapters cannot be written into the weights; "" when they can."""
        return self._no_patch if _touched(adapters) else ""

    def choose_mode(
        self, plan: StrengthPlan, adapters: Mapping[str, Adapter], batch_key: str, pictures: int
    ) -> Mode:
        """Settle how the adapters of the next job are applied, by what was measured so far.

        Raises BadRequest when the setting, or the model, and the adapters do not go together.
        """
        if self._way.diffusers:
            self.patcher.use("diffusers")
            return "diffusers"
        touched = _touched(adapters)
        work = Work(
            steps=plan.steps,
            changes=changes_of(plan, self._denoisers),
            layers=sum(name.split(".", 1)[0] in self._denoisers for name in touched),
            no_branch=self.patcher.branch.why_not(adapters),
            no_patch=self.why_not_written(adapters),
        )
        mode = choose(self._way.mode, work, self.patcher.rates.costs(batch_key, pictures))
        self.patcher.use(mode)
        return mode

    def close(self) -> None:
        self._tree.close()
        self.machine = None
        del self.patcher
        self._device.give_back_memory()


def _touched(adapters: Mapping[str, Adapter]) -> set[str]:
    """Layers that they change."""
    return {name for adapter in adapters.values() for name in adapter.deltas}


def _why_not_written(loaded: LoadedModel) -> str:
    """Why the weights of a model cannot be written; "" when they can."""
    for layer in loaded.layout.layers.values():
        module = layer_module(loaded.modules[layer.component], layer)
        if is_quantised(module):
            return f"{layer.name} is quantised, its weight cannot be written"
    return ""


def weight_files(loaded: LoadedModel, folder: Path) -> Mapping[str, Sequence[Path]]:
    """The files of each component's weights; none for a checkpoint file, whose tensors have other names."""
    if loaded.info.format != "diffusers":
        return {}
    return {name: sorted((folder / name).glob("*.safetensors")) for name in loaded.modules}


def log_layer(layer: str, parts: Key, seconds: float) -> None:
    """One line for each write of a layer's weights: what is in them now, at which strengths."""
    log.info(
        "layer_written",
        layer=layer,
        strengths={sha256[:12]: strength for sha256, _, strength in parts},
        seconds=round(seconds, 6),
    )


def where_pristine(device: Device, model_bytes: int) -> Literal["device", "host"]:
    """Where unchanged weights are kept: beside the patched ones where they fit amply, else in the host's memory."""
    return "device" if not device.is_cuda or device.memory_free() > 2 * model_bytes else "host"


def open_hot(
    open_tree: Callable[[], Tree],
    load: Callable[[Tree], LoadedModel],
    device: Device,
    clock: Clock,
    *,
    way: LoraWay,
    compiled: bool = False,
) -> HotModel:
    """Load a model from its files."""
    tree = open_tree()
    try:
        return HotModel(load(tree), tree, device, clock, way=way, compiled=compiled)
    except BaseException:
        tree.close()
        raise
