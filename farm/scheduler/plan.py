"""The decision itself: (what waits, who is there) in, assignments out. Pure; production, tests and simulators share it.

A lane with room takes, among the jobs whose turn it is (see `share`), the one with the earliest *virtual arrival*: its
submission plus the seconds that its start would cost there. So work that is hot on that lane may pass older work that is
not, but by no more than the cost of that start and by `PATIENCE_SECONDS` at most (in a long queue: by half of its oldest
job's wait), and no job is passed by more than about `MAX_PASSED` for that reason. The job
then goes to the worker that would start it soonest. When that worker's window is full the job waits for it while its
patience lasts: nothing starves.

Lanes, groups and their jobs are looked up in indices, at most `REACH` deep: a round's cost grows with groups and workers only.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime

from farm.scheduler.ahead import Replica, orders, replicas
from farm.scheduler.facts import Assignment, Outlook, Plan, Snapshot
from farm.scheduler.group import GroupKey
from farm.scheduler.lanes import Fleet, Lane
from farm.scheduler.narrow import Hindrance
from farm.scheduler.pauses import Pause, paused_by
from farm.scheduler.quota import Quota
from farm.scheduler.share import CLASSES, Ledger, Open, Turns

#: A job that waited this long takes the first lane with room, however cold.
PATIENCE_SECONDS = 120.0
#: Younger jobs of the same user and class that may go before one for the caches' sake.
MAX_PASSED = 64
#: In a longer queue than that, a start's cost counts once more for each of these seconds that the oldest job has waited.
HASTE_SECONDS = 20.0
#: Groups of one user, and groups by one adapter, that are compared for one slot.
REACH = 8
#: Groups in a row that would start sooner on a full lane, after which a lane with room takes nothing in this round.
ASIDE = 16
_ENDLESS = 1 << 30


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """Assignments of this round, and the outlook of what stays waiting.

    >>> plan(Snapshot(groups=(), workers=()), datetime(2026, 1, 1)).assignments
    []
    """
    this = _Round(snapshot, now.timestamp())
    this.give()
    more = this.replicas()
    ledger = this.ledger(more)
    looked = this.looked + this.fleet.looked
    outlooks = this.foresee() if snapshot.foresee else []
    return Plan(
        assignments=this.assignments,
        outlooks=outlooks,
        prefetch=orders(((o.worker.id, o.job_id, o.lacks) for o in outlooks if o.worker), more),
        ledger=ledger,
        looked=looked,
    )


class _Round:
    def __init__(self, snapshot: Snapshot, now: float):
        self._snapshot = snapshot
        self._now = now
        self._held: list[tuple[Open, Pause | Hindrance | str]] = []
        self._opens: list[Open] = []
        self._quota = Quota(snapshot.running, snapshot.limits, snapshot.running_limit)
        self.assignments: list[Assignment] = []
        self._given: dict[tuple[str, int], list[float]] = {}
        self.looked = 0
        self.turns = Turns(snapshot.ledger, snapshot.weights, now)
        self.fleet = Fleet(snapshot.workers, (group.key.need for group in snapshot.groups))
        groups = sorted(
            (g for g in snapshot.groups if g.heads), key=lambda g: (g.heads[0].created_at, g.heads[0].id)
        )
        # when even the oldest job waits beyond patience, throughput shortens waits more than order does
        age = now - groups[0].heads[0].created_at.timestamp() if groups else 0.0
        self._haste = 1.0 + max(0.0, age - PATIENCE_SECONDS) / HASTE_SECONDS
        self._most = max(PATIENCE_SECONDS, age / 2)
        for number, group in enumerate(groups):
            item = Open(group, number, snapshot.ledger.passed.get(group.key, 0))
            hold = self._hold(group.key)
            if hold:
                self._held.append((item, hold))
                continue
            self._opens.append(item)
        self.turns.begin(self._opens)

    def _hold(self, key: GroupKey) -> Pause | Hindrance | str | None:
        if self._snapshot.pauses:
            pause = paused_by(self._snapshot.pauses, key.need.model_key, key.owner_id)
            if pause:
                return pause
        if full := self._quota.full(key.owner_id, key.key_id):
            return full
        if key.need.only is not None and not key.need.only and self.fleet.lanes:
            return self._snapshot.store
        if key.need.pinned and self.fleet.lanes and self.fleet.best(key.need) is None:
            return "pin"
        return None

    def give(self) -> None:
        """Fill the room that there is."""
        lanes = [(lane.busy, lane.view.name, lane) for lane in self.fleet.lanes if lane.open]
        heapq.heapify(lanes)
        aside: dict[str, int] = {}
        while lanes and not self.turns.over():
            busy, name, lane = heapq.heappop(lanes)
            if not lane.open:
                continue
            if lane.busy != busy:
                heapq.heappush(lanes, (lane.busy, name, lane))
                continue
            item = self._pick(lane)
            if item is None:
                continue
            if lane.boarding.has_seat(item.group.key.ride):
                self._assign(item, lane)
                heapq.heappush(lanes, (lane.busy, name, lane))
                continue
            if lane.slots <= 0:
                # its turn will come when the batch has ended
                continue
            need = item.group.key.need
            best = self.fleet.best(need) or lane
            if best.slots <= 0 and best.bid(need) < lane.bid(need):
                if self._now - item.created < PATIENCE_SECONDS and item.passed < MAX_PASSED:
                    self._wait_for(item, best, lane)
                    aside[name] = aside.get(name, 0) + 1
                    if aside[name] < ASIDE:
                        heapq.heappush(lanes, (lane.busy, name, lane))
                    continue
                best = self.fleet.best(need, room=True) or lane
            elif best.slots <= 0:
                best = lane
            self._assign(item, best)
            if best is not lane or lane.open:
                heapq.heappush(lanes, (lane.busy, name, lane))

    def _wait_for(self, item: Open, best: Lane, lane: Lane) -> None:
        """Keep as many jobs of the group for the full lane `best` as would start there sooner than on `lane`."""
        need, work = item.group.key.need, max(1e-3, best.work(item.group))
        count = min(item.left(), int((lane.bid(need) - best.bid(need)) / work) + 1)
        item.reserved += count
        best.keep(count * work)
        if item.left() <= 0:
            self.turns.drop(item)

    def _assign(self, item: Open, lane: Lane) -> None:
        key, head = item.group.key, item.head
        self.assignments.append(Assignment(job_id=head.id, attempt=head.attempt, worker_id=lane.view.id))
        self._given.setdefault((key.owner_id, item.rank), []).append(item.since)
        lane.slots -= not lane.boarding.give(key.ride)
        self._quota.take(key.owner_id, key.key_id)
        self._move_on(item, lane)
        if self._quota.full(key.owner_id, key.key_id):
            self.turns.drop_full(key.owner_id, self._quota)

    def _move_on(self, item: Open, lane: Lane) -> None:
        key = item.group.key
        self.turns.charge(key.owner_id, lane.cost(key.need) + lane.work(item.group))
        lane.take(item.group)
        self.turns.drop(item)
        item.taken += 1
        if item.left() > 0:
            rank = item.rank
            self.turns.put(item)
            if item.rank != rank:
                self.turns.index(item)

    def _pick(self, lane: Lane) -> Open | None:
        """The group whose turn it is on this lane."""
        for rank in range(CLASSES):
            lines = self.turns.lines(rank)
            best: tuple[float, int, Open] | None = None
            for line in lines.values():
                for since, number, item in line[:REACH]:
                    if best and since >= best[0]:
                        break
                    best = self._better(best, item, lane, (since, number))
            if best and best[0] > best[2].since:
                best = self._hotter(best, lane, rank, set(lines))
            if best:
                return best[2]
        return None

    def _hotter(
        self, best: tuple[float, int, Open], lane: Lane, rank: int, owners: set[str]
    ) -> tuple[float, int, Open]:
        """`best`, or a group further back that finds more of what it wants on this lane."""
        for want in (*lane.view.adapters, *lane.more, lane.model_key or ""):
            for item in self.turns.wanting(rank, want, REACH):
                if item.group.key.owner_id in owners and item.since <= best[0]:
                    best = self._better(best, item, lane, (item.since, item.number)) or best
        return best

    def _better(
        self, best: tuple[float, int, Open] | None, item: Open, lane: Lane, place: tuple[float, int]
    ) -> tuple[float, int, Open] | None:
        self.looked += 1
        need = item.group.key.need
        if need.pinned and not lane.view.suits(need):
            return best
        shift = (
            0.0
            if item.passed >= MAX_PASSED
            else min(lane.price(need) * self._haste + lane.wait(item.group), self._most)
        )
        entry = (place[0] + shift, place[1], item)
        return entry if best is None or entry[:2] < best[:2] else best

    def replicas(self) -> dict[str, Replica]:
        """Workers that should hold an adapter in demand too."""
        keys = ((item, item.group.key) for item in self._opens)
        opens = [item for item, key in keys if not self._quota.full(key.owner_id, key.key_id)]
        return replicas(self.fleet, opens, self._snapshot.ledger.ahead)

    def ledger(self, more: Mapping[str, Replica]) -> Ledger:
        """What the next round starts from."""
        passed: dict[GroupKey, int] = {}
        for times in self._given.values():
            times.sort()
        for item in self._opens:
            key = item.group.key
            if item.taken < len(item.group.heads):
                times = self._given.get((key.owner_id, item.rank), [])
                count = (0 if item.taken else item.passed) + len(times) - bisect_right(times, item.since)
                if count:
                    passed[key] = count
        waiting = {item.group.key.owner_id for item in self._opens if item.taken < len(item.group.heads)}
        ahead = {worker_id: replica.sha for worker_id, replica in more.items()}
        return self.turns.close(passed, waiting, ahead)

    def foresee(self) -> list[Outlook]:
        """The same choices, made as if every lane took what comes whenever it is free."""
        self._reopen()
        outlooks: list[Outlook] = []
        ahead: dict[str, int] = {}
        lanes = [(lane.busy, lane.view.name, lane) for lane in self.fleet.lanes]
        heapq.heapify(lanes)
        while lanes and not self.turns.over() and len(outlooks) < self._snapshot.foresee:
            busy, name, lane = heapq.heappop(lanes)
            if lane.busy != busy:
                heapq.heappush(lanes, (lane.busy, name, lane))
                continue
            item = self._pick(lane)
            if item is None:
                continue
            key = item.group.key
            best = self.fleet.best(key.need) or lane
            outlooks.append(
                Outlook(
                    job_id=item.head.id,
                    worker=best.view,
                    seconds=best.start(key.need),
                    ahead=len(outlooks),
                    yours=ahead.get(key.owner_id, 0),
                    adapters_hot=best.hot(key.need),
                    model_hot=best.model_key == key.need.model_key,
                    lacks=best.lacks(key.need),
                )
            )
            ahead[key.owner_id] = ahead.get(key.owner_id, 0) + 1
            self._move_on(item, best)
            heapq.heappush(lanes, (lane.busy, name, lane))
        nobody = self._snapshot.nobody or "nobody"
        held = self._held if self.fleet.lanes else [*self._held, *((item, nobody) for item in self._opens)]
        for item, hold in held:
            room = self._snapshot.foresee - len(outlooks)
            for place, head in enumerate(item.group.heads[item.taken :][: max(0, room)]):
                outlooks.append(Outlook(job_id=head.id, worker=None, ahead=place, hold=hold))
        return outlooks

    def _reopen(self) -> None:
        """Give back what was only kept, and let every lane take all."""
        for lane in self.fleet.lanes:
            lane.slots = _ENDLESS
            lane.boarding.close()
            lane.keep(-lane.kept)
        self.turns.unindex()
        for item in self._opens:
            if item.lined:
                self.turns.drop(item)
            item.reserved = 0
            if item.left() > 0:
                key = item.group.key
                if full := self._quota.full(key.owner_id, key.key_id):
                    self._held.append((item, full))
                else:
                    self.turns.put(item)
                    self.turns.index(item)
        self.fleet.shelve()
