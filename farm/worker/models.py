"""A loaded base model with its patcher and the machine that samples it, as the sampling thread keeps it between jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from farm.clock import Clock
from farm.lora.patcher import Patcher
from farm.lora.schedule import StrengthPlan
from farm.models.load import LoadedModel
from farm.models.machines import Machine, machine_for
from farm.store.trees import Tree
from farm.worker.device import Device


class MeasuredPatcher:
    """A patcher that counts the seconds it takes, wherever in a step it is called."""

    def __init__(self, patcher: Patcher, clock: Clock):
        self._patcher = patcher
        self._clock = clock
        self.seconds = 0.0

    def apply(
        self,
        plan: StrengthPlan,
        adapters: Mapping[str, Any],
        step: int,
        components: Collection[str] | None = None,
    ) -> Any:
        began = self._clock.monotonic()
        try:
            return self._patcher.apply(plan, adapters, step, components)
        finally:
            self.seconds += self._clock.monotonic() - began

    def restore(self) -> None:
        self._patcher.restore()

    def release(self) -> None:
        """Restore, and free the copies that were kept for the next change."""
        self._patcher.release()


class HotModel:
    """One model in memory. Its files stay pinned on disk as long as it lives."""

    def __init__(self, loaded: LoadedModel, tree: Tree, device: Device, clock: Clock):
        self._device = device
        self._tree = tree
        self.patcher = MeasuredPatcher(
            Patcher(loaded.modules, loaded.layout, pristine=where_pristine(device, loaded.bytes)), clock
        )
        self.machine: Machine | None = machine_for(loaded, self.patcher)

    def close(self) -> None:
        self._tree.close()
        self.machine = None
        del self.patcher
        self._device.give_back_memory()


def where_pristine(device: Device, model_bytes: int) -> Literal["device", "host"]:
    """Where unchanged weights are kept: beside the patched ones where they fit amply, else in the host's memory."""
    return "device" if not device.is_cuda or device.memory_free() > 2 * model_bytes else "host"


def open_hot(
    open_tree: Callable[[], Tree], load: Callable[[Tree], LoadedModel], device: Device, clock: Clock
) -> HotModel:
    """Load a model from its files."""
    tree = open_tree()
    try:
        return HotModel(load(tree), tree, device, clock)
    except BaseException:
        tree.close()
        raise
