"""Which waiting job's files each worker should have at hand early: its next one's, or those of an adapter in demand.

An adapter for which more work waits than the workers that hold it can do within `HORIZON_SECONDS` is told to further
workers, so that they start warm when they take a part of it: as many as the rest of that work would keep busy, and never
more than jobs wait. Who was told before is told again first, so that no fetch is broken off for the sake of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from farm.scheduler.lanes import Fleet, Lane
from farm.scheduler.share import Open

HORIZON_SECONDS = 30.0
#: Adapters that are looked at in one round, those with the most jobs first.
HOTTEST = 16


@dataclass(slots=True)
class _Demand:
    """An adapter with its model: the groups that wait for it."""

    items: list[Open] = field(default_factory=list)
    jobs: int = 0

    def seconds(self, lane: Lane) -> float:
        return sum(lane.work(item.group) * item.waiting() for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A worker that is to hold an adapter too."""

    sha: str
    #: a waiting job that names the adapter and the model
    job_id: str


def replicas(fleet: Fleet, opens: Sequence[Open], before: Mapping[str, str]) -> dict[str, Replica]:
    """By worker id; `before`: the adapters that workers were told of in the last round."""
    demands: dict[tuple[str, str], _Demand] = {}
    for item in opens:
        if item.waiting() > 0:
            for sha, _ in item.group.key.need.adapters:
                demand = demands.setdefault((item.group.key.need.model_key, sha), _Demand())
                demand.items.append(item)
                demand.jobs += item.waiting()
    hottest = sorted(
        (key for key in demands if demands[key].jobs > 1), key=lambda key: (-demands[key].jobs, key)
    )
    told: dict[str, Replica] = {}
    lanes: list[Lane] = []
    for model_key, sha in hottest[:HOTTEST]:
        demand = demands[model_key, sha]
        count = _missing(fleet, model_key, sha, demand)
        if count and not lanes:
            lanes = sorted(fleet.lanes, key=lambda lane: (lane.busy, lane.view.name))
        for lane in _further(lanes, model_key, sha, before) if count else ():
            fits = next((item for item in demand.items if lane.view.suits(item.group.key.need)), None)
            if fits is not None and lane.view.id not in told:
                told[lane.view.id] = Replica(sha=sha, job_id=fits.head.id)
                count -= 1
                if not count:
                    break
    return told


def _missing(fleet: Fleet, model_key: str, sha: str, demand: _Demand) -> int:
    """How many more workers its work would keep busy."""
    if not fleet.lanes:
        return 0
    holders = [lane for lane in fleet.holders(sha) if lane.model_key == model_key]
    able = sum(max(0.0, HORIZON_SECONDS - lane.busy + lane.kept) for lane in holders)
    rest = demand.seconds(holders[0] if holders else fleet.lanes[0]) - able
    return min(max(0, math.ceil(rest / HORIZON_SECONDS)), max(0, demand.jobs - len(holders)))


def _further(lanes: Sequence[Lane], model_key: str, sha: str, before: Mapping[str, str]) -> Iterator[Lane]:
    """Of `lanes`, soonest free first, those that could hold it too: told before, with the model, idle."""

    def place(lane: Lane) -> int:
        if before.get(lane.view.id) == sha:
            return 0
        if lane.busy < HORIZON_SECONDS and lane.model_key == model_key:
            return 1
        return 2 if lane.busy <= 0 else 3

    places: list[list[Lane]] = [[], [], [], []]
    for lane in lanes:
        if not lane.holds(sha) and sha not in lane.view.disk:
            places[place(lane)].append(lane)
    return chain(*places[:3])


def orders(nexts: Iterable[tuple[str, str, bool]], more: Mapping[str, Replica]) -> dict[str, str]:
    """The job by worker: what it gets next, or, where that lacks nothing, an adapter in demand.

    `nexts`: (worker, job, whether it lacks files there), soonest first.
    """
    jobs = {worker_id: replica.job_id for worker_id, replica in more.items()}
    seen: set[str] = set()
    for worker_id, job_id, lacks in nexts:
        if worker_id not in seen:
            seen.add(worker_id)
            if lacks or worker_id not in more:
                jobs[worker_id] = job_id
    return jobs
