"""The second stage: one thread owns the device and serves jobs in the order in which they were prepared.

At each border of steps it lets in whoever may ride with those that run; whoever may not waits until they have ended, and
nobody passes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar, cast

import structlog

from farm.store.trees import Tree
from farm.worker.held import HeldJob
from farm.worker.kit import Kit
from farm.worker.line import Line, Turn
from farm.worker.prepare import Prepared
from farm.worker.ride import Result, Ride
from farm.worker.riders import Riders

__all__ = ["Result", "Sampler"]

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.2

Outcome = TypeVar("Outcome")


class Sampler:
    """The device's thread. `sample` and `on_device` may be called from many threads."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._line = Line()
        self._riders = Riders(kit)
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        self._line.close()
        self._thread.join(seconds)

    def holds_model(self, key: str) -> bool:
        return self._kit.models.holds(key)

    def ahead(self) -> int:
        """How many jobs may be between their claim and their last step: those that ride, and one to be prepared."""
        return self._riders.seats(self._kit.clock.monotonic()) + 1

    def sample(
        self, work: Prepared, open_tree: Callable[[], Tree], checkpoint: bytes | None = None
    ) -> list[Result]:
        """The pictures or clips of a job, one for each seed. `open_tree` gives the model's files, should it not be loaded.
        A `checkpoint` is gone on from, if it fits; why not stands in the job's notes.

        Raises as `farm.worker.ride.Ride.run`.
        """
        ride = Ride(self._kit, work, open_tree, checkpoint)
        return cast(list[Result], self._wait(work.held, Turn(ride=ride)))

    def on_device(self, held: HeldJob, act: Callable[[], Outcome]) -> Outcome:
        """What `act` returns, called in the device's thread when it is this job's turn, with nobody beside it.

        Raises:
            Interrupted: the job must not go on.
            Exception: whatever `act` raised.
        """
        return cast(Outcome, self._wait(held, Turn(act=act)))

    def reload(self) -> None:
        """Drop models and adapters, after the jobs that wait for the device now; the next one loads afresh."""
        self._line.put(Turn(act=self._drop_all))

    def _wait(self, held: HeldJob, turn: Turn) -> object:
        def check() -> None:
            # what has not begun when the worker stops is handed back
            self._kit.hands.hand_back_unless(held, float("inf"))
            held.check_before_sampling()

        turn.check = check
        self._line.put(turn)
        while not turn.started.wait(_LOOK_SECONDS):
            try:
                check()
            except BaseException:
                turn.given_up = True
                raise
        turn.ended.wait()
        if turn.error is not None:
            raise turn.error
        return turn.result

    def _drop_all(self) -> None:
        log.info("reloading", models=len(self._kit.models.hot()))
        self._kit.models.drop_others("")
        self._kit.adapters.drop_unused()
        self._kit.device.give_back_memory()

    def _run(self) -> None:
        riders = self._riders
        while len(riders) or not self._line.over:
            turn = self._line.head(wait=not len(riders))
            if turn is not None and self._may_begin(turn):
                self._begin(self._line.take())
            elif len(riders):
                riders.step()

    def _may_begin(self, turn: Turn) -> bool:
        if not len(self._riders):
            return True
        return turn.ride is not None and self._riders.may_join(turn.ride)

    def _begin(self, turn: Turn) -> None:
        turn.started.set()
        try:
            turn.context.run(turn.check)
            if turn.ride is None:
                assert turn.act is not None
                turn.end(turn.context.run(turn.act))
        except BaseException as error:
            turn.end(error=error)
        else:
            if turn.ride is not None:
                self._riders.begin(turn, turn.ride)
