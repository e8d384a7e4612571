"""What goes into a decision and what comes out of it, as plain data: see `farm.scheduler.plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farm.scheduler.group import Group
from farm.scheduler.held import Held
from farm.scheduler.lanes import WorkerView
from farm.scheduler.narrow import Hindrance
from farm.scheduler.pauses import Pause
from farm.scheduler.share import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that one round knows."""

    groups: tuple[Group, ...]
    workers: tuple[WorkerView, ...]
    #: of users in fair sharing; 1 where nothing is said
    weights: Mapping[str, float] = field(default_factory=dict)
    #: jobs that each user, and each API key with a limit, has on workers now
    running: Mapping[str, int] = field(default_factory=dict)
    #: jobs that one user may have on workers at once; 0: no limit
    running_limit: int = 0
    #: of users and keys that have a limit of their own
    limits: Mapping[str, int] = field(default_factory=dict)
    pauses: tuple[Pause, ...] = ()
    #: why jobs that no worker holds all files of cannot begin; None: the store answers
    store: Hindrance | None = None
    #: why no worker takes jobs; None: none is up
    nobody: Hindrance | None = None
    ledger: Ledger = field(default_factory=Ledger)
    #: what the workers have, by their ids, in the order in which they were given it; for `preempt` alone
    held: Mapping[str, tuple[Held, ...]] = field(default_factory=dict)
    #: waiting jobs whose start is to be foreseen
    foresee: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    job_id: str
    attempt: int
    worker_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Where and when a waiting job is expected to start, as far as this round can see."""

    job_id: str
    worker: WorkerView | None
    #: seconds until its first step
    seconds: float = 0.0
    #: jobs that are expected to start before it
    ahead: int = 0
    #: of these, the same user's
    yours: int = 0
    #: adapters that the worker will hold by then, of all that the job needs
    adapters_hot: int = 0
    model_hot: bool = False
    #: something of it is neither there nor on its way
    lacks: bool = False
    #: what holds it, when it is not the queue: a pause, the store, the user's or the key's limit, a pin that nobody meets
    hold: Pause | Hindrance | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    assignments: list[Assignment]
    #: of what stays waiting, soonest first
    outlooks: list[Outlook]
    #: by worker, the waiting job whose files it should have at hand early
    prefetch: Mapping[str, str]
    ledger: Ledger
    #: (group, lane) pairs looked at: what a round costs
    looked: int
