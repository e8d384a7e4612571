"""The second stage: one thread owns the device and samples jobs in the order in which they were prepared.

Between two steps of a job it looks whether the job may go on, tells its progress and now and then shows a preview. When
memory runs out, caches are dropped and the job begins again in smaller batches, once.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import structlog
from PIL import Image

from farm.clock import Clock
from farm.errors import Permanent
from farm.jobs.states import Stage
from farm.lora.tensors import Adapter
from farm.models.clip import Clip
from farm.models.hires import enlarged
from farm.models.machines import State
from farm.models.second_pass import begin_second
from farm.store.trees import Tree
from farm.worker.checkpoint import Restored
from farm.worker.device import Device, in_words, is_out_of_memory, needed_bytes
from farm.worker.effects import Effects
from farm.worker.held import Hands, HeldJob
from farm.worker.memory import AdapterCache, ModelCache
from farm.worker.models import HotModel, open_hot
from farm.worker.prepare import Prepared
from farm.worker.progress import Progress
from farm.worker.rates import Rates
from farm.worker.resume import Resumer, Run, saved
from farm.worker.way import LoraWay

log = structlog.get_logger(__name__)

Result = Image.Image | Clip

#: Reserved for encoding, upload and record when a stopping worker reckons whether a job still fits.
PUBLISH_SECONDS = 1.0
_LOOK_SECONDS = 0.2

Outcome = TypeVar("Outcome")


@dataclass(slots=True, eq=False)
class _Turn:
    """One job's turn on the device, and what came of it."""

    act: Callable[[], Any]
    #: what the caller's thread logs with
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False
    result: Any = None
    error: BaseException | None = None


class Sampler:
    """The device's thread. `sample` and `on_device` may be called from many threads; turns are first come, first
    served."""

    def __init__(
        self,
        effects: Effects,
        device: Device,
        models: ModelCache[HotModel],
        adapters: AdapterCache[Adapter],
        hands: Hands,
        progress: Progress,
        rates: Rates,
        clock: Clock,
        *,
        resumer: Resumer,
        preview_every: int,
        way: LoraWay,
        compiled: bool,
    ):
        self._effects = effects
        self._device = device
        self._models = models
        self._adapters = adapters
        self._hands = hands
        self._progress = progress
        self._rates = rates
        self._clock = clock
        self._resumer = resumer
        self._preview_every = preview_every
        self._way = way
        self._compiled = compiled
        self._turns: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        self._turns.put(None)
        self._thread.join(seconds)

    def holds_model(self, key: str) -> bool:
        return self._models.holds(key)

    def sample(
        self, work: Prepared, open_tree: Callable[[], Tree], checkpoint: bytes | None = None
    ) -> list[Result]:
        """The pictures or clips of a job, one for each seed. `open_tree` gives the model's files, should it not be loaded.
        A `checkpoint` is gone on from, if it fits; why not stands in the job's notes.

        Raises:
            Interrupted: the job must not go on.
            Permanent: out of memory, or a picture became NaN.
            Exception: whatever the model raised.
        """
        return self.on_device(work.held, partial(self._serve, work, open_tree, checkpoint))

    def on_device(self, held: HeldJob, act: Callable[[], Outcome]) -> Outcome:
        """What `act` returns, called in the device's thread when it is this job's turn.

        Raises:
            Interrupted: the job must not go on.
            Exception: whatever `act` raised.
        """
        turn = _Turn(partial(self._begin, held, act))
        self._turns.put(turn)
        while not turn.started.wait(_LOOK_SECONDS):
            try:
                self._hands.hand_back_unless(held, float("inf"))
                held.check_before_sampling()
            except BaseException:
                turn.given_up = True
                raise
        turn.ended.wait()
        if turn.error is not None:
            raise turn.error
        result: Outcome = turn.result
        return result

    def reload(self) -> None:
        """Drop models and adapters, after the jobs that wait for the device now; the next one loads afresh."""
        self._turns.put(_Turn(self._drop_all))

    def _drop_all(self) -> None:
        log.info("reloading", models=len(self._models.hot()))
        self._models.drop_others("")
        self._adapters.drop_unused()
        self._device.give_back_memory()

    def _run(self) -> None:
        while (turn := self._turns.get()) is not None:
            turn.started.set()
            if not turn.given_up:
                try:
                    turn.result = turn.context.run(turn.act)
                except BaseException as error:
                    turn.error = error
            turn.ended.set()

    def _begin(self, held: HeldJob, act: Callable[[], Outcome]) -> Outcome:
        # what has not begun when the worker stops is handed back
        self._hands.hand_back_unless(held, float("inf"))
        held.check_before_sampling()
        return act()

    def _serve(self, work: Prepared, open_tree: Callable[[], Tree], checkpoint: bytes | None) -> list[Result]:
        hot = self._open(work, open_tree)
        batches: deque[tuple[int, ...]] = deque([work.spec.seeds])
        pictures: list[Result] = []
        finished: list[bytes] = []
        restored = self._resumer.resume(work, hot, checkpoint)
        if restored is not None:
            assert hot.machine is not None
            for done in restored.finished:
                pictures += hot.machine.finish(done)
            finished += restored.checkpoint.finished
            batches = deque(seeds for seeds in (restored.running.spec.seeds, restored.left) if seeds)
        smaller = False
        while batches:
            run = Run(pictures=len(batches[0]), done=len(pictures), finished=tuple(finished))
            try:
                made, last = self._batch(work, hot, batches[0], run, restored)
                pictures += made
                if len(batches) > 1:
                    finished += filter(None, [saved(last)])
            except BaseException as error:
                self._restore(hot)
                if not (isinstance(error, Exception) and is_out_of_memory(error)):
                    raise
                if smaller:
                    raise self._too_large(error, work) from error
                smaller, restored = True, None
                log.warning("out_of_memory_trying_smaller", pictures=len(batches[0]), error=str(error)[:200])
                # the error's frames hold what is to be freed
                error.__traceback__ = None
                self._free(work, hot)
                seeds = batches.popleft()
                half = (len(seeds) + 1) // 2
                batches.extendleft(part for part in (seeds[half:], seeds[:half]) if part)
            else:
                batches.popleft()
                restored = None
        return pictures

    def _open(self, work: Prepared, open_tree: Callable[[], Tree]) -> HotModel:
        held = work.held
        key = work.job.model.key

        def load() -> HotModel:
            self._progress.job(held)
            began = self._clock.monotonic()
            hot = open_hot(
                open_tree, lambda tree: self._effects.load_model(tree.path), self._device, self._clock,
                way=self._way, compiled=self._compiled,
            )  # fmt: skip
            seconds = self._clock.monotonic() - began
            self._rates.load_took(key, seconds)
            log.info("model_loaded", model=key[:12], seconds=round(seconds, 3))
            return hot

        with held.timed(Stage.LOADING, self._clock):
            hot, held.timings.model_hit = self._models.get(key, load)
        return hot

    def _batch(
        self, work: Prepared, hot: HotModel, seeds: tuple[int, ...], run: Run, restored: Restored | None
    ) -> tuple[list[Result], State]:
        """Sample some of the job's pictures together, from the first step, or where they were left, to the last."""
        machine, held, timings = hot.machine, work.held, work.held.timings
        assert machine is not None
        held.steps = work.job.spec.total_steps
        held.check()
        held.stage = Stage.PATCHING
        self._progress.job(held)
        if restored is None:
            hot.choose_mode(work.plan, work.adapters, work.job.batch_key, len(seeds))
        else:
            hot.patcher.use(restored.checkpoint.mode)
        patched = hot.patcher.seconds
        with held.timed(Stage.SAMPLING, self._clock):
            run.saved_at = self._clock.monotonic()
            if restored is None:
                state: State = machine.begin(replace(work.spec, seeds=seeds), work.plan, work.adapters)
            else:
                state = self._resumer.go_on(work, restored, run)
                self._progress.job(held)
            self._pass(work, hot, state, run)
            if work.second_plan is not None:
                if not run.second:
                    run.second = True
                    state = begin_second(machine, state, work.second_plan)
                self._pass(work, hot, state, run)
                # steps of the two differ in time, so the rate of such a job is their mean
                self._rates.step_took(work.job.batch_key, run.seconds / run.step, run.pictures)
            self._resumer.check(work, hot, state, run)
            pictures: list[Result] = [*machine.finish(state)]
        patching = hot.patcher.seconds - patched
        timings.seconds[Stage.SAMPLING] -= patching
        timings.seconds[Stage.PATCHING] += patching
        return pictures, state

    def _pass(self, work: Prepared, hot: HotModel, state: State, run: Run) -> None:
        while not state.done:
            self._step(work, hot, state, run)

    def _step(self, work: Prepared, hot: HotModel, state: State, run: Run) -> None:
        machine, held = hot.machine, work.held
        assert machine is not None
        self._resumer.check(work, hot, state, run)
        began, patched = self._clock.monotonic(), hot.patcher.seconds
        self._effects.step(machine, [state])
        took = self._clock.monotonic() - began
        sampling = max(0.0, took - hot.patcher.seconds + patched)
        run.step += 1
        run.seconds += sampling
        if work.second_plan is None and (state.step > 1 or state.steps == 1):
            # the first step warms up
            self._rates.step_took(work.job.batch_key, sampling, run.pictures)
            hot.patcher.rates.step_took(hot.patcher.mode, work.job.batch_key, sampling / run.pictures)
        total = len(work.spec.seeds)
        held.step = run.overall(work)
        left = (total - run.done) * held.steps - run.pictures * run.step
        self._hands.hand_back_unless(held, took * left / run.pictures + PUBLISH_SECONDS)
        self._progress.job(held, seconds_per_step=round(took, 4))
        if self._preview_every and state.step % self._preview_every == 0 and not state.done:
            self._progress.preview(held, machine.preview(state))
        self._resumer.save_if_due(work, hot, state, run)

    def _restore(self, hot: HotModel) -> None:
        """After anything but success the weights are put back at once; otherwise the next job changes what differs."""
        try:
            hot.patcher.restore()
        except Exception:
            log.warning("restore_failed", exc_info=True)
            for key in self._models.hot():
                self._models.drop(key)

    def _free(self, work: Prepared, hot: HotModel) -> None:
        """Free all memory that this job does not need."""
        self._models.drop_others(work.job.model.key)
        self._adapters.drop_unused()
        hot.patcher.release()
        self._device.give_back_memory()

    def _too_large(self, error: Exception, work: Prepared) -> Permanent:
        needed = needed_bytes(error)
        asked = f"one allocation of {in_words(needed)}" if needed else "more memory"
        free, total = in_words(self._device.memory_free()), in_words(self._device.memory_total)
        scale = work.spec.hires.scale if work.spec.hires else 1.0
        width, height = (enlarged(side, scale, 1) for side in (work.spec.width, work.spec.height))
        return Permanent(
            f"out of memory: {width}×{height} needed {asked}, {self._device.name} has {free} free of {total}",
            "ask for a smaller picture, or render on a device with more memory",
            code="out_of_memory",
        )
