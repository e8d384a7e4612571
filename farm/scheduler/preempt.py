"""Which running jobs give way to interactive ones that would wait long. Pure, and made after the round's plan.

An interactive job that would start more than `WAIT_SECONDS` sooner if less urgent jobs made room gets that room, on the
worker where it has been put already, or on the one where it costs least. Jobs in the middle of their steps are saved at
the next border and go on later; those that have not begun go back to the queue and lose nothing. A job that still waits
in the queue is assigned with the same decision, so that no other can take the place.

A job gives way only if more of it is left than that costs, not twice within `REST_SECONDS`, never to its equals, and not
while a pause would keep it from coming back. Where it costs the same, bulk goes before normal, and what has most left
before what is nearly done. Each worker makes room for one urgent job at a time.

Of many urgent jobs the first `MOST` are looked at in a round, and for each at most `REACH` workers that have its model
and as many that have not: a round's cost grows with workers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from farm.scheduler.facts import Plan, Snapshot
from farm.scheduler.group import Need
from farm.scheduler.held import Held
from farm.scheduler.lanes import Lane
from farm.scheduler.pauses import Pause, paused_by
from farm.scheduler.quota import Quota
from farm.scheduler.share import Ledger, charged

#: A job that starts this much sooner is worth another one's giving way.
WAIT_SECONDS = 10.0
#: From the order until the device is free: a heartbeat, a step, the saving, the claim.
HANDOVER_SECONDS = 8.0
#: A job that gave way goes on in peace for so long.
REST_SECONDS = 120.0
#: An order that has not been obeyed by then is taken for one that will not be.
OBEY_SECONDS = 60.0
#: Urgent jobs in the queue that one round looks at, and workers of a kind for each.
MOST = 100
REACH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """One worker for one urgent job."""

    job_id: str
    #: as read; None: it has been given to that worker before
    attempt: int | None
    worker_id: str
    worker: str
    #: jobs in the middle of their steps, which are saved
    victims: tuple[Held, ...]
    #: jobs that have not begun, which go back to the queue
    taken_back: tuple[Held, ...]
    #: seconds until the urgent job starts now, and until it would have started
    seconds: float
    instead_of: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempted:
    handovers: tuple[Handover, ...]
    #: with the urgent jobs' seconds booked to their users
    ledger: Ledger


class _Room(NamedTuple):
    """What a worker looks like once it has made room for a job."""

    lane: Lane
    victims: tuple[Held, ...]
    taken_back: tuple[Held, ...]
    #: seconds until the job starts there
    seconds: float
    #: seconds that others lose
    loss: float

    def order(self) -> tuple[float, float, float, str]:
        least = min(item.priority for item in (*self.victims, *self.taken_back))
        left = sum(item.left for item in self.victims)
        return self.seconds + self.loss, -least, -left, self.lane.view.name


def preempt(snapshot: Snapshot, made: Plan) -> Preempted:
    """What makes room after the round `made` of `snapshot`. No two handovers are of one worker or for one job.

    >>> nothing = Plan(assignments=[], outlooks=[], prefetch={}, ledger=Ledger(), looked=0)
    >>> preempt(Snapshot(groups=(), workers=()), nothing).handovers
    ()
    """
    this = _Making(snapshot, made)
    this.for_those_given()
    this.for_those_waiting()
    return Preempted(handovers=tuple(this.handovers), ledger=this.ledger)


class _Making:
    def __init__(self, snapshot: Snapshot, made: Plan):
        self._snapshot = snapshot
        self._made = made
        self.handovers: list[Handover] = []
        self.ledger = made.ledger
        self._groups = {head.id: (group, head) for group in snapshot.groups for head in group.heads}
        self._quota = Quota(snapshot.running, snapshot.limits, snapshot.running_limit)
        #: by worker, in the order in which it has them
        self._on = {worker: list(jobs) for worker, jobs in snapshot.held.items()}
        lanes = [Lane(view) for view in snapshot.workers if self._on.get(view.id)]
        self._coming = [lane for lane in lanes if _was_asked(self._on[lane.view.id])]
        asked = {lane.view.id for lane in self._coming}
        self._lanes = {lane.view.id: lane for lane in lanes if lane.view.id not in asked}
        for item in made.assignments:
            group, head = self._groups[item.job_id]
            key = group.key
            self._quota.take(key.owner_id, key.key_id)
            if (lane := self._lanes.get(item.worker_id)) is not None:
                new = Held(
                    id=head.id, attempt=head.attempt + 1, owner_id=key.owner_id, priority=key.priority,
                    need=key.need, left=lane.work(group), begun=False,
                )  # fmt: skip
                self._on[item.worker_id].append(new)

    def for_those_given(self) -> None:
        """Jobs that stand behind others on the worker that they were given to."""
        for lane in list(self._lanes.values()):
            jobs = self._on[lane.view.id]
            place = next((n for n, job in enumerate(jobs) if not (job.priority or job.begun)), None)
            if place is None:
                continue
            urgent = jobs[place]
            if paused_by(self._snapshot.pauses, urgent.need.model_key, urgent.owner_id):
                continue
            ahead = [job for job in jobs if job.begun] + [job for job in jobs[:place] if not job.begun]
            now = sum(job.left for job in ahead) + lane.cost(urgent.need)
            room = _room(lane, ahead, urgent.need, self._snapshot.pauses)
            if room and room.seconds + WAIT_SECONDS < now:
                self._hand_over(room, urgent.id, None, now)

    def for_those_waiting(self) -> None:
        """Jobs that are foreseen to start late, wherever."""
        # a worker that makes room already, and has nothing urgent, does so for one of them
        coming = [lane for lane in self._coming if all(job.priority for job in self._on[lane.view.id])]
        able = _Able(self._lanes, self._on)
        late = (
            outlook
            for outlook in self._made.outlooks
            if not outlook.hold
            and outlook.worker is not None
            and outlook.seconds > WAIT_SECONDS
            and not self._groups[outlook.job_id][0].key.priority
        )
        for outlook in islice(late, MOST):
            group, head = self._groups[outlook.job_id]
            key = group.key
            if self._quota.full(key.owner_id, key.key_id):
                continue
            if promised := next((lane for lane in coming if lane.view.suits(key.need)), None):
                coming.remove(promised)
                continue
            room = self._best(able, key.need, outlook.seconds - WAIT_SECONDS)
            if room is None:
                continue
            self._quota.take(key.owner_id, key.key_id)
            seconds = room.lane.cost(key.need) + room.lane.work(group)
            self.ledger = charged(
                self.ledger, key.owner_id, seconds, self._snapshot.weights.get(key.owner_id, 1.0)
            )
            self._hand_over(room, head.id, head.attempt, outlook.seconds)

    def _best(self, able: _Able, need: Need, within: float) -> _Room | None:
        rooms = (
            _room(lane, self._on[lane.view.id], need, self._snapshot.pauses) for lane in able.for_need(need)
        )
        return min((room for room in rooms if room and room.seconds < within), key=_Room.order, default=None)

    def _hand_over(self, room: _Room, job_id: str, attempt: int | None, instead_of: float) -> None:
        view = room.lane.view
        del self._lanes[view.id]
        self.handovers.append(
            Handover(
                job_id=job_id, attempt=attempt, worker_id=view.id, worker=view.name, victims=room.victims,
                taken_back=room.taken_back, seconds=room.seconds, instead_of=instead_of,
            )
        )  # fmt: skip


class _Able:
    """Workers that may make room, those first whose jobs cost least: bulk before normal, much left before little."""

    def __init__(self, lanes: Mapping[str, Lane], on: Mapping[str, Sequence[Held]]):
        self._lanes = lanes
        self._all = sorted(lanes.values(), key=lambda lane: _place(lane, on[lane.view.id]))
        self._models: dict[str | None, list[Lane]] = {}
        for lane in self._all:
            self._models.setdefault(lane.model_key, []).append(lane)

    def for_need(self, need: Need) -> list[Lane]:
        """A few that suit it and have not been taken, with its model and without."""
        found = [*self._few(self._models.get(need.model_key, ()), need), *self._few(self._all, need)]
        return list({lane.view.id: lane for lane in found}.values())

    def _few(self, lanes: Iterable[Lane], need: Need) -> Iterator[Lane]:
        open_ = (lane for lane in lanes if lane.view.id in self._lanes and lane.view.suits(need))
        return islice(open_, REACH)


def _place(lane: Lane, jobs: Sequence[Held]) -> tuple[int, float, str]:
    begun = [job for job in jobs if job.begun] or jobs
    return -min(job.priority for job in begun), -sum(job.left for job in begun), lane.view.name


def _was_asked(jobs: Iterable[Held]) -> bool:
    return any(job.asked and (job.rested or 0.0) < OBEY_SECONDS for job in jobs)


def _room(lane: Lane, jobs: Sequence[Held], need: Need, pauses: Sequence[Pause]) -> _Room | None:
    """`lane` with as few of `jobs` as may be before one that needs `need`; None: none of them goes."""
    begun = [job for job in jobs if job.begun]
    costs = {job.id: _loss(lane, job, need) for job in begun}
    # they share the device: one that stays would keep it from the urgent job
    free = all(
        job.saves
        and _may_go(job, pauses)
        and job.left > costs[job.id]
        and (job.rested is None or job.rested >= REST_SECONDS)
        for job in begun
    )
    victims = tuple(begun) if free else ()
    taken_back = tuple(job for job in jobs if not job.begun and _may_go(job, pauses))
    if not (victims or taken_back):
        return None
    stays = sum(job.left for job in jobs if job not in victims and job not in taken_back)
    return _Room(
        lane=lane,
        victims=victims,
        taken_back=taken_back,
        seconds=(HANDOVER_SECONDS if victims else 0.0) + stays + lane.cost(need),
        loss=sum(costs[job.id] for job in victims),
    )


def _may_go(job: Held, pauses: Sequence[Pause]) -> bool:
    return (
        job.priority > 0
        and not job.asked
        and (not pauses or paused_by(pauses, job.need.model_key, job.owner_id) is None)
    )


def _loss(lane: Lane, job: Held, need: Need) -> float:
    """Seconds that giving way costs: the handover, and the start once the urgent job has taken its place."""
    after = Lane(lane.view)
    after.model_key = need.model_key
    return HANDOVER_SECONDS + after.cost(job.need)
