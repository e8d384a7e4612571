"""A loaded base model with its patcher and step machine, as the sampling thread keeps it between jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from farm.clock import Clock
from farm.lora.branch import SideBranch
from farm.lora.compiled import compile_in_place
from farm.lora.patcher import Patcher, layer_module
from farm.lora.quantised import is_quantised
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter
from farm.models.load import LoadedModel
from farm.models.sampler import StepMachine
from farm.store.trees import Tree
from farm.worker.device import Device
from farm.worker.mode import Mode, Wish, Work, changes_of, choose
from farm.worker.rates import ModeRates


class MeasuredPatcher:
    """Applies adapters in one of the two ways, and counts the seconds that it takes, wherever in a step it is called."""

    def __init__(self, loaded: LoadedModel, device: Device, clock: Clock):
        patcher = Patcher(loaded.modules, loaded.layout, pristine=where_pristine(device, loaded.bytes))
        self.branch = SideBranch(loaded.modules, loaded.layout)
        self._ways: Mapping[Mode, Patcher | SideBranch] = {"patch": patcher, "branch": self.branch}
        self._denoisers = frozenset(loaded.layout.denoisers)
        self._device = device
        self._clock = clock
        self.mode: Mode = "patch"
        self.rates = ModeRates()
        self.seconds = 0.0

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
        began = self._clock.monotonic()
        try:
            report = self._ways[self.mode].apply(plan, adapters, step, components)
            if report.changed:
                self._device.wait()
        finally:
            took = self._clock.monotonic() - began
            self.seconds += took
        if report.changed and self.mode == "patch" and self._denoisers.intersection(components or ()):
            self.rates.wrote(took, report.changed, first=step == 1)
        return report

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
        lora_mode: Wish = "auto",
        compiled: bool = False,
    ):
        self._device = device
        self._tree = tree
        self._denoisers = loaded.layout.denoisers
        self._wish: Wish = lora_mode
        self._no_patch = _why_not_written(loaded)
        if compiled:
            for name in loaded.layout.denoisers:
                compile_in_place(loaded.modules[name])
        self.patcher = MeasuredPatcher(loaded, device, clock)
        self.machine: StepMachine | None = StepMachine(loaded, self.patcher)

    def choose_mode(
        self, plan: StrengthPlan, adapters: Mapping[str, Adapter], batch_key: str, pictures: int
    ) -> Mode:
        """Settle how the adapters of the next job are applied, by what was measured so far.

        Raises BadRequest when the setting, or the model, and the adapters do not go together.
        """
        touched = {name for adapter in adapters.values() for name in adapter.deltas}
        work = Work(
            steps=plan.steps,
            changes=changes_of(plan, self._denoisers),
            layers=sum(name.split(".", 1)[0] in self._denoisers for name in touched),
            no_branch=self.patcher.branch.why_not(adapters),
            no_patch=self._no_patch if touched else "",
        )
        mode = choose(self._wish, work, self.patcher.rates.costs(batch_key, pictures))
        self.patcher.use(mode)
        return mode

    def close(self) -> None:
        self._tree.close()
        self.machine = None
        del self.patcher
        self._device.give_back_memory()


def _why_not_written(loaded: LoadedModel) -> str:
    """Why the weights of a model cannot be written; "" when they can."""
    for layer in loaded.layout.layers.values():
        module = layer_module(loaded.modules[layer.component], layer)
        if is_quantised(module):
            return f"{layer.name} is quantised, its weight cannot be written"
    return ""


def where_pristine(device: Device, model_bytes: int) -> Literal["device", "host"]:
    """Where unchanged weights are kept: beside the patched ones where they fit amply, else in the host's memory."""
    return "device" if not device.is_cuda or device.memory_free() > 2 * model_bytes else "host"


def open_hot(
    open_tree: Callable[[], Tree],
    load: Callable[[Tree], LoadedModel],
    device: Device,
    clock: Clock,
    *,
    lora_mode: Wish = "auto",
    compiled: bool = False,
) -> HotModel:
    """Load a model from its files."""
    tree = open_tree()
    try:
        return HotModel(load(tree), tree, device, clock, lora_mode=lora_mode, compiled=compiled)
    except BaseException:
        tree.close()
        raise
