"""Workers during planning, and an index that finds the one that would start a group soonest without asking all."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from farm.jobs.pins import met
from farm.jobs.rates import Rates, start_cost
from farm.scheduler.batches import Batch, Boarding
from farm.scheduler.group import Group, Need
from farm.scheduler.score import toll

#: Soonest free lanes that are looked at per shelf and kind (with room, and full).
TOP = 4
#: Lanes, soonest free first, that are known by an adapter on their disk: more would not be looked at, and disks are large.
STORED = 32
_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as its last report and its open jobs describe it."""

    id: str
    name: str
    #: how many more jobs its window takes now
    free_slots: int
    #: seconds until everything already given to it is done
    busy_seconds: float
    #: model that will be loaded once it has done what it has
    model_key: str | None
    adapters: frozenset[str] = frozenset()
    disk: frozenset[str] = frozenset()
    rates: Rates = field(default_factory=Rates)
    #: bytes of its device in all; 0: not told
    memory_bytes: int = 0
    tags: frozenset[str] = frozenset()
    #: what runs there, which others may join beyond the window
    batch: Batch = field(default_factory=Batch)
    #: pictures that are worth a forward pass there, by batch key
    batch_sizes: Mapping[str, int] = field(default_factory=dict)

    def suits(self, need: Need) -> bool:
        """Whether a job's pins allow this worker."""
        if (need.avoid and self.id in need.avoid) or (need.only is not None and self.id not in need.only):
            return False
        return met(need.memory_bytes, need.tags, has_memory=self.memory_bytes, has_tags=self.tags)

    def holds_all(self, need: Need) -> bool:
        """Whether it has everything in memory or on its disk that the job needs."""
        model = self.model_key == need.model_key or need.model_key in self.disk
        return model and all(sha in self.adapters or sha in self.disk for sha, _ in need.adapters)


class Lane:
    """One worker during planning: its view, moved on by what was given to it."""

    __slots__ = (
        "_counts",
        "boarding",
        "busy",
        "crowd",
        "kept",
        "model_key",
        "more",
        "shelved",
        "slots",
        "view",
    )

    def __init__(self, view: WorkerView):
        self.view = view
        self.slots = view.free_slots
        self.boarding = Boarding(view.batch, view.batch_sizes)
        self.busy = view.busy_seconds
        self.model_key = view.model_key
        #: of `busy`, seconds kept for jobs that wait for it
        self.kept = 0.0
        #: how much it counts what a start takes from others: 1 while no worker is idle, less the more are
        self.crowd = 0.0
        #: adapters that come with what was given
        self.more = _NOTHING
        #: `busy`, and whether it had room, when the shelves were built
        self.shelved = (0.0, False)
        #: what needs were found to cost, until it is given something
        self._counts: dict[Need, tuple[float, float]] | None = None

    @property
    def open(self) -> bool:
        """Whether it takes anything now."""
        return self.slots > 0 or self.boarding.seats > 0

    def holds(self, sha: str) -> bool:
        return sha in self.view.adapters or sha in self.more

    def hot(self, need: Need) -> int:
        """How many of the adapters it will have in memory."""
        return sum(self.holds(sha) for sha, _ in need.adapters)

    def lacks(self, need: Need) -> bool:
        """Whether a file of it is not on this worker, nor comes with what was given."""
        disk = self.view.disk
        files = all(self.holds(sha) or sha in disk for sha, _ in need.adapters)
        return not files or (self.model_key != need.model_key and need.model_key not in disk)

    def cost(self, need: Need) -> float:
        """Seconds from a free device to the first step."""
        return self._count(need)[0]

    def start(self, need: Need) -> float:
        """Seconds until the first step."""
        return self.busy + self.cost(need)

    def price(self, need: Need) -> float:
        """`cost`, and what it takes from others: that counts the more, the fewer workers are idle."""
        seconds, extra = self._count(need)
        return seconds + self.crowd * extra

    def bid(self, need: Need) -> float:
        """What workers are chosen by, the least first: `start` at its price."""
        return self.busy + self.price(need)

    def _count(self, need: Need) -> tuple[float, float]:
        """Seconds of `start_cost` and of `toll`: asked for again and again within a round."""
        counts = self._counts
        if counts is None:
            counts = self._counts = {}
        found = counts.get(need)
        if found is None:
            found = counts[need] = self._reckon(need)
        return found

    def _reckon(self, need: Need) -> tuple[float, float]:
        view, more = self.view, self.more
        held = view.adapters
        cold = [item for item in need.adapters if item[0] not in held and item[0] not in more]
        model_hot = self.model_key == need.model_key
        if model_hot and not cold:
            return 0.0, 0.0
        disk = view.disk
        cold_bytes = sum([size for sha, size in cold if sha not in disk])
        seconds = start_cost(
            view.rates,
            model_key=need.model_key,
            model_hot=model_hot,
            model_bytes=0 if need.model_key in disk else need.model_bytes,
            cold_bytes=cold_bytes,
            cold_adapters=len(cold),
        )
        displaced = None if model_hot else self.model_key
        return seconds, toll(view.rates, displaced=displaced, cold_bytes=cold_bytes)

    def work(self, group: Group) -> float:
        """Device seconds of one job of the group, once started."""
        return self.view.rates.step_seconds(group.key.batch_key) * group.steps

    def wait(self, group: Group) -> float:
        """Seconds that those who join its batch do not wait, and others do."""
        return self.busy if self.boarding.seats and not self.boarding.has_seat(group.key.ride) else 0.0

    def keep(self, seconds: float) -> None:
        self.kept += seconds
        self.busy += seconds

    def take(self, group: Group) -> None:
        need = group.key.need
        self.busy += self.cost(need) + self.work(group)
        self.model_key = need.model_key
        self.more = self.more.union([sha for sha, _ in need.adapters])
        self._counts = None


_Entry = tuple[float, str, Lane]


class Shelf:
    """Lanes of one kind, soonest free first. Entries are put right lazily, as lanes become busier."""

    __slots__ = ("_full", "_full_top", "_room", "_room_top")

    def __init__(self, lanes: Iterable[Lane]):
        self._room: list[_Entry] = []
        self._full: list[_Entry] = []
        #: the soonest, in order, taken off the heaps
        self._room_top: list[_Entry] = []
        self._full_top: list[_Entry] = []
        for lane in lanes:
            busy, room = lane.shelved
            (self._room if room else self._full).append((busy, lane.view.name, lane))
        heapq.heapify(self._room)
        heapq.heapify(self._full)

    def soonest(self) -> Iterator[Lane]:
        """The lanes with room that are free first, then the full ones; at most `TOP` of each."""
        top = self._room_top = self._put_right(self._room_top, self._room, room=True)
        for entry in top:
            yield entry[2]
        top = self._full_top = self._put_right(self._full_top, self._full, room=False)
        for entry in top:
            yield entry[2]

    def _put_right(self, top: list[_Entry], heap: list[_Entry], *, room: bool) -> list[_Entry]:
        kept: list[_Entry] = []
        for entry in top:
            self._keep(entry, kept, heap, room=room)
        if heap and kept and heap[0] < kept[-1]:
            for entry in kept:
                heapq.heappush(heap, entry)
            kept = []
        while heap and len(kept) < TOP:
            self._keep(heapq.heappop(heap), kept, heap, room=room)
        return kept

    def _keep(self, entry: _Entry, kept: list[_Entry], heap: list[_Entry], *, room: bool) -> None:
        """Keep an entry that is still right, or put it where it belongs now."""
        lane = entry[2]
        if room and lane.slots <= 0:
            heapq.heappush(self._full, (lane.busy, lane.view.name, lane))
        elif entry[0] != lane.busy:
            heapq.heappush(heap, (lane.busy, lane.view.name, lane))
        else:
            kept.append(entry)


class Fleet:
    """All lanes of a round, with shelves by what the waiting groups want: a model, an adapter, a pin."""

    def __init__(self, workers: Iterable[WorkerView], needs: Iterable[Need]):
        self.lanes = [Lane(view) for view in workers]
        self.needs = set(needs)
        self.looked = 0
        idle = sum(lane.busy <= 0 for lane in self.lanes)
        crowd = (1 - idle / max(1, len(self.lanes))) / math.sqrt(1 + idle)
        for lane in self.lanes:
            lane.crowd = crowd
        self.shelve()

    def shelve(self) -> None:
        """Sort the lanes as they are onto shelves; a shelf is built when it is first asked for."""
        wanted = {sha for need in self.needs for sha, _ in need.adapters}
        kinds: dict[object, list[Lane]] = self._stored(wanted)
        for lane in self.lanes:
            lane.shelved = lane.busy, lane.slots > 0
            kinds.setdefault(("model", lane.model_key), []).append(lane)
            for sha in wanted & (lane.view.adapters | lane.more if lane.more else lane.view.adapters):
                kinds.setdefault(("adapter", sha), []).append(lane)
        for need in self.needs:
            if need.pinned:
                kinds[need] = [lane for lane in self.lanes if lane.view.suits(need)]
        self._kinds = kinds
        self._shelves: dict[object, Shelf] = {}
        self._all = Shelf(self.lanes)

    def _stored(self, wanted: set[str]) -> dict[object, list[Lane]]:
        """Lanes by the wanted adapters on their disks."""
        kinds: dict[object, list[Lane]] = {}
        scarce = set(wanted)
        for lane in sorted(self.lanes, key=lambda lane: (lane.busy, lane.view.name)):
            if not scarce:
                break
            for sha in scarce & lane.view.disk:
                lanes = kinds.setdefault(("disk", sha), [])
                lanes.append(lane)
                if len(lanes) >= STORED:
                    scarce.discard(sha)
        return kinds

    def best(self, need: Need, *, room: bool = False) -> Lane | None:
        """The lane with the least bid for `need`, among those with room only if asked; None: no lane suits."""
        best: Lane | None = None
        least = 0.0
        pinned = need.pinned
        for shelf in self._of(need, pinned=pinned):
            for lane in shelf.soonest():
                self.looked += 1
                if (room and lane.slots <= 0) or (pinned and not lane.view.suits(need)):
                    continue
                if best is None:
                    best, least = lane, lane.bid(need)
                elif lane.busy <= least:
                    # no lane bids less than the time until it is free: the others need not be asked what it costs there
                    bid = lane.bid(need)
                    if bid < least or (bid == least and lane.view.name < best.view.name):
                        best, least = lane, bid
        return best

    def holders(self, sha: str) -> list[Lane]:
        """Lanes that have a wanted adapter in memory or on disk; of very many, some."""
        return list(
            dict.fromkeys(lane for place in ("adapter", "disk") for lane in self._kinds.get((place, sha), ()))
        )

    def _of(self, need: Need, *, pinned: bool) -> Iterator[Shelf]:
        yield self._shelf(need) if pinned else self._all
        where = [(place, sha) for sha, _ in need.adapters for place in ("adapter", "disk")]
        for kind in (("model", need.model_key), *where):
            if kind in self._kinds:
                yield self._shelf(kind)

    def _shelf(self, kind: object) -> Shelf:
        shelf = self._shelves.get(kind)
        if shelf is None:
            shelf = self._shelves[kind] = Shelf(self._kinds[kind])
        return shelf
