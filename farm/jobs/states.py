"""States of a job and every transition between them, as data; `farm.jobs.attempts` and `control` carry them out.

Each transition is one UPDATE with the guard that stands here; 0 rows changed means that somebody else was first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import UNIQUE, StrEnum, verify


@verify(UNIQUE)
class State(StrEnum):
    #: waits for a worker
    QUEUED = "queued"
    #: given to a worker that has not begun yet
    ASSIGNED = "assigned"
    #: a worker renders it
    RUNNING = "running"
    #: its pictures, or what else it made, are recorded; never changes again
    SUCCEEDED = "succeeded"
    #: ended with a reason; may be retried
    FAILED = "failed"
    #: ended by its owner; may be retried
    CANCELLED = "cancelled"


@verify(UNIQUE)
class Stage(StrEnum):
    """What a worker does with a running job; for display, no transition depends on it."""

    FETCHING = "fetching"
    LOADING = "loading"
    PATCHING = "patching"
    SAMPLING = "sampling"
    EXTRACTING = "extracting"
    UPLOADING = "uploading"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
OPEN = frozenset(State) - TERMINAL
#: states in which an attempt holds the job
HELD = frozenset({State.ASSIGNED, State.RUNNING})

#: words for people, numbers for the index of what waits
PRIORITIES = {"interactive": 0, "normal": 1, "bulk": 2}
PRIORITY_NAMES = {number: name for name, number in PRIORITIES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One way from state to state."""

    #: what `job_events.transition` says
    name: str
    sources: frozenset[State]
    targets: frozenset[State]
    #: who may do it
    who: str
    #: the WHERE of its UPDATE, in words
    guard: str
    effect: str


def _of(name: str, sources: str, targets: str, who: str, guard: str, effect: str) -> Transition:
    return Transition(
        name=name,
        sources=frozenset(State(word) for word in sources.split()),
        targets=frozenset(State(word) for word in targets.split()),
        who=who,
        guard=guard,
        effect=effect,
    )


_ATTEMPT = "the job runs this attempt"
_TABLE = (
    _of("submit", "", "queued", "owner", "the request's key is new", "the row is written"),
    _of("assign", "queued", "assigned", "leader",
        "queued, attempt as read, not cancelled, its pause is over, this leader's epoch still stands",
        "attempt + 1, worker set"),
    _of("claim", "assigned", "running", "worker", "assigned to this worker under this attempt", "the attempt begins"),
    _of("unassign", "assigned", "queued cancelled", "leader", "assigned under this attempt",
        "the worker is taken off; counts as nothing"),
    _of("heartbeat", "running", "running", "worker", "runs this attempt on this worker", "counter + 1, stage, step"),
    _of("resume", "running", "running", "worker", _ATTEMPT, "the history tells from which step the attempt went on"),
    _of("preempt", "running", "running", "leader", f"{_ATTEMPT}, it was not asked before",
        "the worker hears of it, saves the job and hands it back"),
    _of("succeed", "running", "succeeded", "worker", _ATTEMPT,
        "pictures, timings and webhook are written in the same transaction"),
    _of("retry_later", "running", "queued cancelled", "worker", f"{_ATTEMPT}, retries are left",
        "a pause that doubles; counts as a retry"),
    _of("hand_back", "assigned running", "queued cancelled", "worker", "held under this attempt",
        "the worker stops in good order, gives way, or has no room; counts as nothing"),
    _of("lose", "running", "queued cancelled", "leader",
        f"{_ATTEMPT}, the heartbeat counter is the one that stood still", "crash count + 1, unless it was an outage"),
    _of("quarantine", "running", "failed cancelled", "leader", "as lose, and the job is poison",
        "fails with the code `quarantined`"),
    _of("fail", "running", "failed", "worker", _ATTEMPT, "code and sentence are kept"),
    _of("cancel", "queued assigned", "cancelled", "owner", "the owner's, not ended", "a held attempt loses the job"),
    _of("request_cancel", "running", "running", "owner", "the owner's, running", "the worker hears of it"),
    _of("cancelled", "running", "cancelled", "worker", f"{_ATTEMPT}, a cancel was asked for", "the attempt ends"),
    _of("retry", "failed cancelled", "queued", "owner", "ended, attempt as read",
        "counters to 0; the attempt number keeps growing"),
)  # fmt: skip

#: all transitions by name
TRANSITIONS: dict[str, Transition] = {transition.name: transition for transition in _TABLE}
