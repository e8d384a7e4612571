"""What the device's thread works with, and the few things that it does for any job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from farm.clock import Clock
from farm.errors import Permanent
from farm.jobs.states import Stage
from farm.lora.tensors import Adapter
from farm.models.hires import enlarged
from farm.models.state import SampleSpec
from farm.worker.batching import Gains
from farm.worker.device import Device, in_words, needed_bytes
from farm.worker.effects import Effects
from farm.worker.held import Hands, HeldJob
from farm.worker.memory import AdapterCache, ModelCache
from farm.worker.models import HotModel
from farm.worker.progress import Progress
from farm.worker.rates import Rates
from farm.worker.resume import Resumer
from farm.worker.way import LoraWay

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """Parts of a worker that serve the device's thread."""

    effects: Effects
    device: Device
    models: ModelCache[HotModel]
    adapters: AdapterCache[Adapter]
    hands: Hands
    progress: Progress
    rates: Rates
    gains: Gains
    clock: Clock
    resumer: Resumer
    preview_every: int
    way: LoraWay
    compiled: bool

    @contextmanager
    def occupied(self, held: HeldJob, hot: HotModel) -> Iterator[None]:
        """Whatever happens inside counts as the job's sampling, or as its patching."""
        patched = hot.patcher.seconds
        with held.timed(Stage.SAMPLING, self.clock):
            yield
        patching = hot.patcher.seconds - patched
        held.timings.seconds[Stage.SAMPLING] -= patching
        held.timings.seconds[Stage.PATCHING] += patching

    def restore(self, hot: HotModel) -> None:
        """After anything but success the weights are put back at once; otherwise the next job changes what differs."""
        try:
            hot.patcher.restore()
        except Exception:
            log.warning("restore_failed", exc_info=True)
            for key in self.models.hot():
                self.models.drop(key)

    def free(self, model_key: str, hot: HotModel) -> None:
        """Free all memory that jobs on this model do not need."""
        self.models.drop_others(model_key)
        self.adapters.drop_unused()
        hot.patcher.release()
        self.device.give_back_memory()

    def too_large(self, error: Exception, spec: SampleSpec) -> Permanent:
        """What to tell a job that does not fit into the device's memory."""
        needed = needed_bytes(error)
        asked = f"one allocation of {in_words(needed)}" if needed else "more memory"
        free, total = in_words(self.device.memory_free()), in_words(self.device.memory_total)
        scale = spec.hires.scale if spec.hires else 1.0
        width, height = (enlarged(side, scale, 1) for side in (spec.width, spec.height))
        return Permanent(
            f"out of memory: {width}×{height} needed {asked}, {self.device.name} has {free} free of {total}",
            "ask for a smaller picture, or render on a device with more memory",
            code="out_of_memory",
        )
