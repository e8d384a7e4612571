"""One job from claim to end, by the runner of its kind. Threads of consecutive jobs overlap in different stages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog
from sqlalchemy.exc import DBAPIError

from farm.errors import Permanent
from farm.jobs.loading import JobForWorker
from farm.jobs.states import TERMINAL
from farm.logs import bound
from farm.worker.effects import Effects
from farm.worker.held import Hands, HeldJob, Interrupted
from farm.worker.keeper import Keeper
from farm.worker.outcomes import Endings
from farm.worker.patience import Patience
from farm.worker.progress import Progress

log = structlog.get_logger(__name__)

#: how often one that waits at the gate looks whether the limit has grown
_LOOK_SECONDS = 0.2

#: Does a job of one kind and records its result; calls the last argument once the device is free for the next job.
#: False: another attempt owns the job.
Runner = Callable[[JobForWorker, HeldJob, Callable[[], None]], bool]


class Stages:
    """Runs jobs; called by as many threads as jobs may be in work at a time."""

    def __init__(
        self,
        effects: Effects,
        hands: Hands,
        patience: Patience,
        runners: Mapping[str, Runner],
        progress: Progress,
        worker_name: str,
        keeper: Keeper,
        look: Callable[[], None],
        *,
        ahead: Callable[[], int],
    ):
        """`look` starts what waits for this worker, in other threads; `ahead`: how many jobs may be between claim and last
        step now: more would only be taken from other workers."""
        self._effects = effects
        self._hands = hands
        self._patience = patience
        self._runners = runners
        self._progress = progress
        self._worker_name = worker_name
        self._keeper = keeper
        self._endings = Endings(effects, patience, keeper)
        self._gate = _Gate(ahead)
        self._claiming = threading.Lock()
        self._look = look
        #: a claim was refused: its job may have had to wait for another one's end
        self._refused = False

    def has_room(self) -> bool:
        """Whether a job would be claimed at once."""
        return self._gate.is_open() and self._hands.takes_jobs()

    def run(self, job_id: str, attempt: int) -> bool:
        """Do this attempt of a job, if it is this worker's to claim; False when it is not, or not now.

        Returns when the attempt has ended, however it did; raises nothing.
        """
        self._gate.enter()
        ahead = _Once(self._gate)
        try:
            held = self._claim(job_id, attempt)
            if held is None:
                return False
            with bound(job_id=job_id, attempt=attempt, worker=self._worker_name):
                try:
                    state = self._run(held, ahead)
                finally:
                    self._hands.let_go(held)
                    if not self._hands.current():
                        # idle now: the next round need not wait for its time
                        self._effects.ring()
                    if self._refused and self._hands.takes_jobs():
                        self._refused = False
                        self._look()
                if state in TERMINAL:
                    self._keeper.ended(held)
                if state is not None:
                    self._progress.job(held, state)
            return True
        finally:
            ahead.release()

    def _claim(self, job_id: str, attempt: int) -> HeldJob | None:
        # two messages of one job must not both pass the question whether it is held
        with self._claiming:
            if not self._hands.takes_jobs() or self._hands.holds(job_id):
                return None
            try:
                claimed = self._effects.claim(job_id, attempt)
            except DBAPIError as error:
                # unknown outcome: if it is ours, its lease runs out; if not, it is sent again
                log.warning("claim_failed", job_id=job_id, attempt=attempt, error=str(error.orig))
                return None
            if not claimed:
                log.info("message_stale", job_id=job_id, attempt=attempt)
                self._refused = True
                return None
            return self._hands.take(job_id, attempt)

    def _run(self, held: HeldJob, ahead: _Once) -> str | None:
        """The state in which this attempt leaves the job; None when another attempt decides."""
        try:
            job = self._patience.until_done("read_job", lambda: self._effects.read_job(held.id), held)
            held.owner_id, held.steps = job.owner_id, job.spec.total_steps
            self._progress.job(held)
            return self._do(job, held, ahead)
        except Interrupted as interruption:
            ahead.release()
            return self._endings.interrupted(held, interruption)
        except Exception as error:
            ahead.release()
            return self._endings.failed(held, error)

    def _do(self, job: JobForWorker, held: HeldJob, ahead: _Once) -> str | None:
        runner = self._runners.get(job.kind)
        if runner is None:
            raise Permanent(
                f"this worker does not know jobs of the kind {job.kind!r}", "update it", code="unknown_kind"
            )
        if not runner(job, held, ahead.release):
            log.info("result_discarded")
            return None
        log.info("job_succeeded", kind=job.kind, **held.timings.as_dict())
        return "succeeded"


class _Gate:
    """Lets in as many as a limit says that moves."""

    def __init__(self, limit: Callable[[], int]):
        self._limit = limit
        self._changed = threading.Condition()
        self._inside = 0

    def is_open(self) -> bool:
        return self._inside < self._limit()

    def enter(self) -> None:
        with self._changed:
            while not self.is_open():
                self._changed.wait(_LOOK_SECONDS)
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()


class _Once:
    """Leaves a gate the first time it is asked to."""

    def __init__(self, gate: _Gate):
        self._gate = gate
        self._lock = threading.Lock()
        self._done = False

    def release(self) -> None:
        with self._lock:
            done, self._done = self._done, True
        if not done:
            self._gate.leave()
