"""Between two steps: may the job go on, is it to be saved, and where did an earlier attempt leave it?"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from farm.clock import Clock
from farm.errors import Permanent
from farm.models.machines import State
from farm.models.sampler import StepMachine
from farm.worker.checkpoint import Checkpoint, Facts, Restored, cannot_save, restore
from farm.worker.device import Device
from farm.worker.held import Interrupted
from farm.worker.keeper import Keeper, start_over
from farm.worker.models import HotModel
from farm.worker.prepare import Prepared

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Run:
    """Some pictures of a job on their way through all its steps."""

    pictures: int
    #: pictures of the job that were finished before, and the last states of their parts
    done: int
    finished: tuple[bytes, ...] = ()
    second: bool = False
    #: it was asked to give way, but cannot be saved
    stays: bool = False
    #: when this part was saved, or begun
    saved_at: float = 0.0
    #: steps done, of all passes, and the seconds that they took without patching
    step: int = 0
    seconds: float = 0.0

    def overall(self, work: Prepared) -> int:
        """Steps of the job that are done, over all its pictures."""
        return (work.held.steps * self.done + self.step * self.pictures) // len(work.spec.seeds)


class Resumer:
    """Saves jobs for others to go on with, and goes on with what others saved; on the device's thread."""

    def __init__(self, keeper: Keeper, device: Device, clock: Clock, *, seconds: float, compiled: bool):
        """`seconds` between two checkpoints of a job; 0 for none but when it is handed back."""
        self._keeper = keeper
        self._device = device
        self._clock = clock
        self._seconds = seconds
        self._compiled = compiled

    def resume(self, work: Prepared, hot: HotModel, checkpoint: bytes | None) -> Restored | None:
        """The job where an earlier attempt left it; None, with a note why, where it is begun anew."""
        machine, held = hot.machine, work.held
        assert machine is not None
        if checkpoint is None:
            if work.job.broken_off and not isinstance(machine, StepMachine):
                start_over(held, cannot_save(machine))
            return None
        facts = Facts.of(work.job.model.key, machine.model, self._device, compiled=self._compiled)
        try:
            restored = restore(
                checkpoint, facts, machine, work.spec, (work.plan, work.second_plan), work.adapters
            )
        except Permanent as error:
            start_over(held, error.message)
            return None
        if not hot.patcher.knows(restored.checkpoint.mode):
            start_over(held, "its checkpoint was made with adapters applied by diffusers")
            return None
        return restored

    def go_on(self, work: Prepared, restored: Restored, run: Run) -> State:
        """The state of the part that an earlier attempt left in the middle."""
        state, held = restored.running, work.held
        run.second, run.seconds = restored.checkpoint.second, restored.checkpoint.seconds
        run.step = state.step + (work.spec.steps if run.second else 0)
        held.step = run.overall(work)
        self._keeper.resumed(held, held.step, restored.in_words())
        log.info("resumed", step=held.step, words=restored.in_words())
        return state

    def save_if_due(self, work: Prepared, hot: HotModel, state: State, run: Run) -> None:
        """Save the job when its last checkpoint is as old as the setting says."""
        if self._seconds and self._clock.monotonic() - run.saved_at >= self._seconds:
            self._save(work, hot, state, run)

    def check(self, work: Prepared, hot: HotModel, state: State, run: Run) -> None:
        """Raises Interrupted when the job must not go on; it is saved first where it is to be gone on with elsewhere."""
        held = work.held
        try:
            held.check()
        except Interrupted as interruption:
            if interruption.reason == "drained":
                self._save(work, hot, state, run)
            raise
        if held.give_way and not (run.stays or state.done):
            if self._save(work, hot, state, run):
                raise Interrupted("preempted")
            run.stays = True
            log.info("cannot_give_way")

    def _save(self, work: Prepared, hot: HotModel, state: State, run: Run) -> bool:
        """Hand a checkpoint to the keeper; False where the machine cannot save."""
        run.saved_at = self._clock.monotonic()
        data, machine = saved(state), hot.machine
        if data is None or machine is None:
            return False
        checkpoint = Checkpoint(
            facts=Facts.of(work.job.model.key, machine.model, self._device, compiled=self._compiled),
            mode=hot.patcher.mode,
            finished=run.finished,
            running=data,
            second=run.second,
            seconds=run.seconds,
        )
        self._keeper.keep(work.held, checkpoint.pack(), work.held.step)
        return True


def saved(state: State) -> bytes | None:
    """The state as bytes; None where its machine cannot save."""
    try:
        return state.save()
    except (Permanent, TypeError):
        # TypeError: a scheduler remembers what has no form as bytes
        return None
