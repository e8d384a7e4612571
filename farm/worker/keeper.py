"""Stores checkpoints in a thread of its own, so that no step waits for the store; of each job only the newest waits."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy.exc import DBAPIError

from farm.errors import FarmError
from farm.jobs.loading import JobForWorker
from farm.store import keys
from farm.worker.effects import Effects
from farm.worker.held import HeldJob
from farm.worker.patience import Patience

log = structlog.get_logger(__name__)

#: longest wait for the errands of one job
SETTLE_SECONDS = 10.0
_MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True, eq=False)
class _Errand:
    held: HeldJob
    act: Callable[[], object]
    #: a later one of the same job makes it pointless
    checkpoint: bool = False


class Keeper:
    """Runs errands in order; whoever needs them done waits with `settle`. An errand that fails costs its effect only."""

    def __init__(self, effects: Effects, patience: Patience):
        self._effects = effects
        self._patience = patience
        self._changed = threading.Condition()
        self._waiting: deque[_Errand] = deque()
        self._running: _Errand | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 2.0) -> None:
        """Do what waits, for at most this long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def find(self, job: JobForWorker, held: HeldJob) -> bytes | None:
        """The checkpoint of `job`, with its hash checked; None where there is none, or none that can be used.

        Raises:
            Interrupted: the job must not go on.
        """
        found = job.checkpoint
        if found is None:
            return None
        held.checkpoint = found.key
        try:
            data = self._patience.until_done("fetch_checkpoint", lambda: self._effects.read(found.key), held)
        except FarmError as error:
            start_over(held, f"its checkpoint cannot be read ({error})")
            return None
        if hashlib.sha256(data).hexdigest() != found.sha256:
            start_over(held, "its checkpoint is damaged")
            return None
        return data

    def keep(self, held: HeldJob, data: bytes, step: int) -> None:
        """Store a checkpoint after `step` steps, and let the job know."""
        with self._changed:
            self._forget(held)
            self._waiting.append(_Errand(held, partial(self._store, held, data, step), checkpoint=True))
            self._changed.notify_all()

    def resumed(self, held: HeldJob, step: int, words: str) -> None:
        """Tell the job's history that it was gone on with."""
        self._add(_Errand(held, partial(self._effects.resumed, held, step, words)))

    def settle(self, held: HeldJob, seconds: float, *, forget: bool = False) -> bool:
        """Wait until all errands of a job are done; whether they are. With `forget`, checkpoints not begun are dropped."""
        with self._changed:
            if forget:
                self._forget(held)
            return self._changed.wait_for(lambda: not self._busy_with(held), seconds)

    def ended(self, held: HeldJob) -> None:
        """Nobody will go on with this job: delete its checkpoint."""
        with self._changed:
            self._forget(held)
        self._add(_Errand(held, partial(self._drop, held)))

    def _add(self, errand: _Errand) -> None:
        with self._changed:
            self._waiting.append(errand)
            self._changed.notify_all()

    def _forget(self, held: HeldJob) -> None:
        self._waiting = deque(one for one in self._waiting if not (one.held is held and one.checkpoint))

    def _busy_with(self, held: HeldJob) -> bool:
        return any(one is not None and one.held is held for one in (self._running, *self._waiting))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                self._running = self._waiting.popleft()
            try:
                self._running.act()
            except (FarmError, DBAPIError) as error:
                log.warning("errand_failed", job_id=self._running.held.id, error=str(error)[:200])
            except Exception:
                log.exception("errand_failed", job_id=self._running.held.id)

    def _store(self, held: HeldJob, data: bytes, step: int) -> None:
        held.checkpoints += 1
        key = keys.checkpoint(held.owner_id, held.id, held.attempt, held.checkpoints)
        sha256 = self._effects.upload(key, data, _MEDIA_TYPE)
        if not self._effects.note_checkpoint(held, key, sha256, step):
            # the job is another attempt's by now, or has ended
            self._effects.discard(key)
            return
        before, held.checkpoint = held.checkpoint, key
        log.info("checkpoint_kept", job_id=held.id, step=step, bytes=len(data))
        if before is not None and before != key:
            self._effects.discard(before)

    def _drop(self, held: HeldJob) -> None:
        key, held.checkpoint = held.checkpoint, None
        if key is not None:
            self._effects.discard(key)


def start_over(held: HeldJob, why: str) -> None:
    """Say that a job was begun anew although an earlier attempt had come further."""
    sentence = f"{why}, started over"
    log.warning("started_over", why=why)
    held.notes.append(sentence)
