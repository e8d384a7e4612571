"""One job on the device, from its first step to its pictures, told as a generator: each `yield` is a border of steps.

It gives the state that is to be denoised and is told what the step took. Who steps, alone or together with others, is not
its business (`farm.worker.riders`). When memory runs out it begins again in smaller parts, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
from PIL import Image

from farm.jobs.states import Stage
from farm.models.clip import Clip
from farm.models.machines import Machine, State
from farm.models.sampler import StepMachine
from farm.models.second_pass import begin_second
from farm.store.trees import Tree
from farm.worker.batching import Passenger, constant_weights
from farm.worker.checkpoint import Restored
from farm.worker.device import is_out_of_memory
from farm.worker.kit import Kit
from farm.worker.models import HotModel, open_hot
from farm.worker.prepare import Prepared
from farm.worker.resume import Run, saved

log = structlog.get_logger(__name__)

Result = Image.Image | Clip

#: Reserved for encoding, upload and record when a stopping worker reckons whether a job still fits.
PUBLISH_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """What a step took, of all jobs in it together."""

    seconds: float
    #: of these, for applying adapters
    patching: float
    pictures: int
    jobs: int


#: Gives the state to denoise next, or None: the device alone is wanted before anything else.
Rides = Generator[State | None, Stepped | None, T]


class Ride:
    """A prepared job; `run` once."""

    def __init__(
        self, kit: Kit, work: Prepared, open_tree: Callable[[], Tree], checkpoint: bytes | None
    ) -> None:
        self.work = work
        self._kit = kit
        self._open_tree = open_tree
        self._checkpoint = checkpoint
        self._passenger: Passenger | None = None
        #: whether no other job is being sampled at this moment
        self.alone: Callable[[], bool] = lambda: True
        self.hot: HotModel | None = None
        self.part: Run | None = None
        self.state: State | None = None

    @property
    def even_paced(self) -> bool:
        """Whether all its steps take the same time."""
        return self.work.second_plan is None

    def passenger(self, hot: HotModel) -> Passenger:
        """What matters for who may ride with it on this model."""
        if self._passenger is None:
            work, job = self.work, self.work.job
            machine, alone = hot.machine, ""
            if not isinstance(machine, StepMachine):
                alone = "a pipeline of diffusers samples it"
            elif work.second_plan is not None:
                alone = "it has a second pass"
            branch = "" if isinstance(machine, StepMachine) and machine.can_mix else "its family cannot mix"
            self._passenger = Passenger(
                model_key=job.model.key,
                batch_key=job.batch_key,
                pictures=len(work.spec.seeds),
                weights=constant_weights(work.plan, work.adapters, hot.denoisers),
                no_branch=branch or hot.patcher.branch.why_not(work.adapters),
                no_patch=hot.why_not_written(work.adapters),
                alone=alone,
            )
        return self._passenger

    def look(self) -> None:
        """Raises Interrupted when the job must not go on; it is saved first where it is to be gone on with elsewhere."""
        if self.hot is None or self.state is None or self.part is None:
            self.work.held.check()
        else:
            self._kit.resumer.check(self.work, self.hot, self.state, self.part)

    def run(self) -> Rides[list[Result]]:
        """The pictures or clips of the job, one for each seed. A checkpoint is gone on from, if it fits.

        Raises:
            Interrupted: the job must not go on.
            Permanent: out of memory, or a picture became NaN.
            Exception: whatever the model raised.
        """
        work, kit = self.work, self._kit
        self.hot = hot = self._open()
        assert hot.machine is not None
        batches: deque[tuple[int, ...]] = deque([work.spec.seeds])
        pictures: list[Result] = []
        finished: list[bytes] = []
        restored = kit.resumer.resume(work, hot, self._checkpoint)
        if restored is not None:
            for done in restored.finished:
                pictures += hot.machine.finish(done)
            finished += restored.checkpoint.finished
            batches = deque(seeds for seeds in (restored.running.spec.seeds, restored.left) if seeds)
        smaller = False
        while batches:
            self.part = run = Run(pictures=len(batches[0]), done=len(pictures), finished=tuple(finished))
            try:
                made = yield from self._part(hot, hot.machine, batches[0], run, restored)
                pictures += made
                if len(batches) > 1:
                    assert self.state is not None
                    finished += filter(None, [saved(self.state)])
            except BaseException as error:
                if self.alone():
                    kit.restore(hot)
                if not (isinstance(error, Exception) and is_out_of_memory(error)):
                    raise
                if smaller:
                    raise kit.too_large(error, work.spec) from error
                smaller, restored = True, None
                log.warning("out_of_memory_trying_smaller", pictures=len(batches[0]), error=str(error)[:200])
                # the error's frames hold what is to be freed
                error.__traceback__ = None
                kit.free(work.job.model.key, hot)
                seeds = batches.popleft()
                half = (len(seeds) + 1) // 2
                batches.extendleft(part for part in (seeds[half:], seeds[:half]) if part)
            else:
                batches.popleft()
                restored = None
        return pictures

    def _open(self) -> HotModel:
        kit, held, key = self._kit, self.work.held, self.work.job.model.key

        def load() -> HotModel:
            kit.progress.job(held)
            began = kit.clock.monotonic()
            hot = open_hot(
                self._open_tree, lambda tree: kit.effects.load_model(tree.path), kit.device, kit.clock,
                way=kit.way, compiled=kit.compiled,
            )  # fmt: skip
            seconds = kit.clock.monotonic() - began
            kit.rates.load_took(key, seconds)
            log.info("model_loaded", model=key[:12], seconds=round(seconds, 3))
            return hot

        with held.timed(Stage.LOADING, kit.clock):
            hot, held.timings.model_hit = kit.models.get(key, load)
        return hot

    def _part(
        self, hot: HotModel, machine: Machine, seeds: tuple[int, ...], run: Run, restored: Restored | None
    ) -> Rides[list[Result]]:
        """Sample some of the job's pictures, from the first step, or where they were left, to the last."""
        work, kit, held = self.work, self._kit, self.work.held
        self.state = None
        held.steps = work.job.spec.total_steps
        held.check()
        held.stage = Stage.PATCHING
        kit.progress.job(held)
        if self.alone():
            # whoever joins others takes their way
            if restored is None:
                hot.choose_mode(work.plan, work.adapters, work.job.batch_key, len(seeds))
            else:
                hot.patcher.use(restored.checkpoint.mode)
        run.saved_at = kit.clock.monotonic()

        def begin() -> State:
            if restored is None:
                return machine.begin(replace(work.spec, seeds=seeds), work.plan, work.adapters)
            state = kit.resumer.go_on(work, restored, run)
            kit.progress.job(held)
            return state

        self.state = state = yield from self._with_room(hot, begin)
        yield from self._pass(hot, machine, state, run)
        if work.second_plan is not None:
            if not run.second:
                run.second = True
                with kit.occupied(held, hot):
                    self.state = state = begin_second(machine, state, work.second_plan)
            yield from self._pass(hot, machine, state, run)
            # steps of the two differ in time, so the rate of such a job is their mean
            kit.rates.step_took(work.job.batch_key, run.seconds / run.step, run.pictures)
        kit.resumer.check(work, hot, state, run)
        return (yield from self._with_room(hot, lambda: [*machine.finish(state)]))

    def _pass(self, hot: HotModel, machine: Machine, state: State, run: Run) -> Rides[None]:
        while not state.done:
            self._kit.resumer.check(self.work, hot, state, run)
            stepped = yield state
            assert stepped is not None
            with self._kit.occupied(self.work.held, hot):
                self._after(hot, machine, state, run, stepped)

    def _after(self, hot: HotModel, machine: Machine, state: State, run: Run, stepped: Stepped) -> None:
        """Count a step, show it, and save the job when that is due."""
        kit, work, held = self._kit, self.work, self.work.held
        share = run.pictures / stepped.pictures
        sampling = max(0.0, stepped.seconds - stepped.patching)
        held.timings.seconds[Stage.SAMPLING] += sampling * share
        held.timings.seconds[Stage.PATCHING] += stepped.patching * share
        held.timings.shared_steps += stepped.jobs > 1
        run.step += 1
        run.seconds += sampling
        held.step = run.overall(work)
        left = (len(work.spec.seeds) - run.done) * held.steps - run.pictures * run.step
        kit.hands.hand_back_unless(held, stepped.seconds * left / run.pictures + PUBLISH_SECONDS)
        kit.progress.job(held, seconds_per_step=round(stepped.seconds, 4))
        if kit.preview_every and state.step % kit.preview_every == 0 and not state.done:
            kit.progress.preview(held, machine.preview(state))
        kit.resumer.save_if_due(work, hot, state, run)

    def _with_room(self, hot: HotModel, act: Callable[[], T]) -> Rides[T]:
        """What `act` gives. When memory runs out beside others, it is done again once this job has the device alone."""
        held = self.work.held
        try:
            with self._kit.occupied(held, hot):
                return act()
        except Exception as error:
            if self.alone() or not is_out_of_memory(error):
                raise
            log.warning("out_of_memory_beside_others", error=str(error)[:200])
            error.__traceback__ = None
        self._kit.free(self.work.job.model.key, hot)
        yield None
        with self._kit.occupied(held, hot):
            return act()
