"""The jobs that are sampled together: who joins at a border of steps, who leaves, and what one's trouble means for others.

All of them are on one model. Each is a generator of its own (`farm.worker.ride`), so a cancel, a checkpoint or an error of
one touches no other. Those that memory has no room for are put aside and go on later from their own state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import structlog

from farm.models.machines import State
from farm.models.sampler import Diverged, SampleState, StepMachine
from farm.worker.batching import Running, joined_mode
from farm.worker.device import is_out_of_memory
from farm.worker.held import Interrupted
from farm.worker.kit import Kit
from farm.worker.line import Turn
from farm.worker.models import HotModel
from farm.worker.ride import Result, Ride, Rides, Stepped

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Rider:
    """A job on its way."""

    turn: Turn
    ride: Ride
    run: Rides[list[Result]] = field(init=False)
    #: what is denoised next; None: it wants the device alone
    state: State | None = None

    def __post_init__(self) -> None:
        self.run = self.ride.run()


class Riders:
    """The table of running jobs. Only the device's thread calls it."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._hot: HotModel | None = None
        self._active: list[_Rider] = []
        self._aside: deque[_Rider] = deque()
        #: states of the step before: a step with newcomers tells nothing about speed
        self._before: list[State] = []

    def __len__(self) -> int:
        return len(self._active) + len(self._aside)

    def seats(self, now: float) -> int:
        """How many jobs like those that run now are worth sampling together. Safe from any thread."""
        riders = list(self._active)
        if not riders:
            return 1
        key, pictures = riders[0].ride.work.job.batch_key, sum(map(_pictures, riders))
        return max(len(riders), self._kit.gains.size(key, now) * len(riders) // pictures)

    def may_join(self, ride: Ride) -> bool:
        """Whether a job may begin beside those that run, at this border; the way of applying adapters is made theirs."""
        if self._aside or not self._active:
            return not len(self)
        hot = self._hot
        if hot is None or ride.work.job.model.key != self._active[0].ride.work.job.model.key:
            return False
        running = Running(
            riders=tuple(rider.ride.passenger(hot) for rider in self._active),
            mode=hot.patcher.mode,
            steps_left=max(_left(rider) for rider in self._active),
            memory_free=self._kit.device.memory_free(),
        )
        now = self._kit.clock.monotonic()
        mode = joined_mode(running, ride.passenger(hot), self._kit.way.mode, self._kit.gains, now)
        if mode is None:
            return False
        hot.patcher.use(mode)
        return True

    def begin(self, turn: Turn, ride: Ride) -> None:
        """Let a job begin, alone or beside those that run."""
        rider = _Rider(turn, ride)
        company = bool(self._active)
        ride.alone = lambda: not any(other is not rider for other in self._active)
        self._active.append(rider)
        self._go_on(rider)
        self._hot = self._hot if company else ride.hot
        if company and rider in self._active and not self._fits(rider):
            # its text is of another length, say: a pass of its own would only slow both
            self._put_aside([rider])

    def step(self) -> None:
        """Denoise all by one step, and let each go on with it."""
        self._look_aside()
        if self._active:
            self._step(list(self._active))

    def _step(self, riders: Sequence[_Rider]) -> None:
        kit, hot = self._kit, self._hot
        assert hot is not None
        assert hot.machine is not None
        states = _states(riders)
        targets = [state.step + 1 for state in states]
        pictures = sum(map(_pictures, riders))
        began, patched = kit.clock.monotonic(), hot.patcher.seconds
        lies = kit.device.watch_memory()
        errors: dict[_Rider, BaseException] = {}
        try:
            kit.effects.step(hot.machine, states)
        except BaseException as error:
            if len(riders) == 1:
                errors[riders[0]] = error
            elif isinstance(error, Diverged):
                errors = {
                    rider: Diverged([state])
                    for rider, state in zip(riders, states, strict=True)
                    if any(state is broken for broken in error.states)
                }
            elif is_out_of_memory(error):
                error.__traceback__ = None
                self._make_room(riders, pictures, hot)
                return
            else:
                errors = self._one_by_one(riders, targets, hot)
        took = Stepped(
            seconds=kit.clock.monotonic() - began,
            patching=hot.patcher.seconds - patched,
            pictures=pictures,
            jobs=len(riders),
        )
        if not errors:
            self._measure(riders, states, took, kit.device.needed_memory(lies), hot)
        self._before = states
        for rider in riders:
            self._go_on(rider, took, errors.get(rider))
        if not len(self):
            self._hot, self._before = None, []

    def _measure(
        self, riders: Sequence[_Rider], states: list[State], took: Stepped, size: int, hot: HotModel
    ) -> None:
        """Learn from a step, unless it warmed something up."""
        kit, first = self._kit, riders[0].ride
        warm = all(state.steps == 1 for state in states) or states == self._before
        if not (warm and first.even_paced):
            return
        key, sampling = first.work.job.batch_key, max(0.0, took.seconds - took.patching)
        kit.rates.step_took(key, sampling, took.pictures)
        mixed = None
        if len(riders) > 1:
            mixed = hot.patcher.mixes
        else:
            hot.patcher.rates.step_took(hot.patcher.mode, key, sampling / took.pictures)
        kit.gains.took(key, took.pictures, took.seconds, mixed=mixed, now=kit.clock.monotonic())
        if size:
            kit.gains.took_memory(key, took.pictures, size)

    def _go_on(self, rider: _Rider, took: Stepped | None = None, error: BaseException | None = None) -> None:
        """Let a job do what lies between two steps; it leaves when it has ended."""
        turn, run = rider.turn, rider.run
        try:
            rider.state = (
                turn.context.run(run.send, took) if error is None else turn.context.run(run.throw, error)
            )
        except StopIteration as end:
            self._leave(rider)
            turn.end(end.value)
        except BaseException as ended:
            self._leave(rider)
            turn.end(error=ended)
        else:
            if rider.state is None:
                self._put_aside([rider])

    def _leave(self, rider: _Rider) -> None:
        if rider in self._active:
            self._active.remove(rider)
        if rider in self._aside:
            self._aside.remove(rider)

    def _put_aside(self, riders: Sequence[_Rider]) -> None:
        """Before those that wait there: they began earlier."""
        for rider in riders:
            self._active.remove(rider)
        self._aside.extendleft(reversed(riders))

    def _look_aside(self) -> None:
        """Take back what fits again, and let go what must not wait any more."""
        for rider in list(self._aside):
            try:
                rider.turn.context.run(rider.ride.look)
            except Interrupted as interruption:
                self._go_on(rider, error=interruption)
        while self._aside:
            rider = self._aside[0]
            if self._active and not (rider.state is not None and self._fits(rider) and self._pays(rider)):
                return
            self._aside.popleft()
            self._active.append(rider)
            if rider.state is None:
                self._go_on(rider)

    def _fits(self, rider: _Rider) -> bool:
        """Whether its tensors have the shapes of those that run."""
        machine = self._hot.machine if self._hot else None
        states = [other.state for other in self._active if other is not rider and other.state is not None]
        if not isinstance(machine, StepMachine) or not states:
            return True
        shapes = {machine.shape_key(cast(SampleState, state)) for state in (rider.state, states[0])}
        return len(shapes) == 1

    def _pays(self, rider: _Rider) -> bool:
        key, kit = rider.ride.work.job.batch_key, self._kit
        pictures = sum(map(_pictures, self._active)) + _pictures(rider)
        mixed = self._hot is not None and self._hot.patcher.mixes
        return pictures <= kit.gains.useful(key, mixed=mixed, now=kit.clock.monotonic())

    def _make_room(self, riders: Sequence[_Rider], pictures: int, hot: HotModel) -> None:
        """Memory ran out: half of the jobs wait aside, the others go on where they are."""
        key = riders[0].ride.work.job
        log.warning("out_of_memory_smaller_batch", jobs=len(riders), pictures=pictures)
        self._kit.gains.ran_out(key.batch_key, pictures, self._kit.clock.monotonic())
        self._put_aside(riders[(len(riders) + 1) // 2 :])
        self._kit.free(key.model.key, hot)

    def _one_by_one(
        self, riders: Sequence[_Rider], targets: Sequence[int], hot: HotModel
    ) -> dict[_Rider, BaseException]:
        """Something broke a shared step: whoever has not got through it takes it alone, and answers for it alone."""
        assert hot.machine is not None
        errors: dict[_Rider, BaseException] = {}
        for rider, target in zip(riders, targets, strict=True):
            state = rider.state
            assert state is not None
            if state.step >= target:
                continue
            try:
                self._kit.effects.step(hot.machine, [state])
            except BaseException as error:
                errors[rider] = error
        return errors


def _states(riders: Sequence[_Rider]) -> list[State]:
    return [rider.state for rider in riders if rider.state is not None]


def _pictures(rider: _Rider) -> int:
    return rider.ride.part.pictures if rider.ride.part else len(rider.ride.work.spec.seeds)


def _left(rider: _Rider) -> int:
    return rider.state.steps - rider.state.step if rider.state is not None else 0
