"""The jobs in this worker's hands: where each stands, what was heard about it, and whether it may go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from farm.clock import Clock
from farm.jobs.attempts import Beat, HeartbeatAnswer
from farm.jobs.states import Stage

Reason = Literal["cancelled", "lost", "drained", "preempted"]


class Interrupted(Exception):
    """This attempt must not go on: its owner cancelled it, another attempt owns the job, this worker stops, or a
    more urgent job is to go first."""

    def __init__(self, reason: Reason):
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(slots=True)
class Timings:
    """What one attempt cost: seconds by stage, and what was hot. Written by the thread that works on it."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(Stage, 0.0))
    bytes_fetched: int = 0
    #: bytes that had been fetched before the job came
    prefetched: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    model_hit: bool = False
    #: steps that were sampled together with other jobs; the seconds of such a step are shared by pictures
    shared_steps: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            **{stage: round(seconds, 4) for stage, seconds in self.seconds.items()},
            "bytes_fetched": self.bytes_fetched,
            "prefetched": self.prefetched,
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
            "model_hit": self.model_hit,
            "shared_steps": self.shared_steps,
        }


@dataclass(slots=True, eq=False)
class HeldJob:
    """One attempt, from its claim until its end is recorded."""

    id: str
    attempt: int
    owner_id: str = ""
    stage: Stage = Stage.FETCHING
    step: int = 0
    steps: int = 0
    cancel: bool = False
    lost: bool = False
    #: the worker stops, and what is left of this job does not fit its time
    hand_back: bool = False
    #: a more urgent job is to go first
    give_way: bool = False
    #: its checkpoint that the job's row names
    checkpoint: str | None = None
    #: checkpoints that this attempt has stored or tried to
    checkpoints: int = 0
    #: sentences for the job about how it was done
    notes: list[str] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)

    def check(self) -> None:
        """Raises Interrupted when this attempt must not go on. Called between steps and before anything long."""
        if self.lost:
            raise Interrupted("lost")
        if self.cancel:
            raise Interrupted("cancelled")
        if self.hand_back:
            raise Interrupted("drained")

    def check_before_sampling(self) -> None:
        """`check`, and Interrupted too when the job is to give way: what has not begun costs nothing."""
        self.check()
        if self.give_way:
            raise Interrupted("preempted")

    @contextmanager
    def timed(self, stage: Stage, clock: Clock) -> Iterator[None]:
        """Whatever happens inside counts as this stage."""
        self.stage = stage
        began = clock.monotonic()
        try:
            yield
        finally:
            self.timings.seconds[stage] += clock.monotonic() - began


class Hands:
    """All held jobs of this worker, and its own state: taking jobs, draining, or leaving by a deadline."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, HeldJob] = {}
        #: an operator asked for it: finish what is held, take nothing new
        self.draining = False
        #: why this worker cannot work at the moment, in a sentence, and the bytes of disk that would let it go on
        self.blocked = ""
        self.needed = 0
        self._leave_at: float | None = None
        self.stopping = threading.Event()
        #: set when the device is broken and only a new process helps
        self.broken = threading.Event()
        #: of all jobs since the start of this process
        self.done = 0
        self.bytes_fetched = 0
        #: of jobs that were only expected, and how many of their files a job then found
        self.bytes_prefetched = 0
        self.prefetch_hits = 0
        self.cache_hits = 0
        self.cache_misses = 0

    def take(self, job_id: str, attempt: int) -> HeldJob:
        with self._lock:
            held = self._held[job_id] = HeldJob(job_id, attempt)
            return held

    def let_go(self, held: HeldJob) -> None:
        with self._lock:
            if self._held.get(held.id) is held:
                del self._held[held.id]
            self.done += 1
            self.bytes_fetched += held.timings.bytes_fetched
            self.cache_hits += held.timings.cache_hits
            self.cache_misses += held.timings.cache_misses

    def holds(self, job_id: str) -> bool:
        return job_id in self._held

    def takes_jobs(self) -> bool:
        return not (self.draining or self.blocked or self.stopping.is_set() or self.broken.is_set())

    def block(self, why: str, needed: int) -> None:
        """Take nothing new until there is room for `needed` bytes."""
        self.blocked, self.needed = why, needed

    def look_for_room(self, has_room: Callable[[int], bool]) -> bool:
        """Take jobs again if there is room; True when that has changed now."""
        if not self.blocked or not has_room(self.needed):
            return False
        self.blocked = ""
        return True

    def current(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._held)

    def beats(self) -> list[Beat]:
        with self._lock:
            return [(held.id, held.attempt, str(held.stage), held.step) for held in self._held.values()]

    def obey(self, answer: HeartbeatAnswer, asked: Iterable[Beat]) -> None:
        """Mark what was lost, cancelled or is to give way; the job notices at its next step.

        The answer is about the attempts that were asked for: a later attempt of a job that was lost may be held by now.
        """
        told = {(job_id, attempt) for job_id, attempt, _, _ in asked}
        with self._lock:
            for held in self._held.values():
                if (held.id, held.attempt) not in told:
                    continue
                held.lost = held.lost or held.id in answer.lost
                held.cancel = held.cancel or held.id in answer.cancel
                held.give_way = held.give_way or held.id in answer.give_way

    def lose_all(self) -> None:
        """This worker was given up: everything it holds belongs to others now."""
        with self._lock:
            for held in self._held.values():
                held.lost = True

    def leave_within(self, seconds: float) -> None:
        """Take nothing new, and be done in this time."""
        self._leave_at = self._clock.monotonic() + seconds
        self.stopping.set()

    def seconds_left(self) -> float | None:
        """Until this worker has to be done; None while it does not stop."""
        return None if self._leave_at is None else max(0.0, self._leave_at - self._clock.monotonic())

    def hand_back_unless(self, held: HeldJob, seconds_needed: float) -> None:
        """While stopping: give up a job that needs longer than there is. Noticed by the job's next `check`."""
        left = self.seconds_left()
        if left is not None and seconds_needed > left:
            held.hand_back = True
