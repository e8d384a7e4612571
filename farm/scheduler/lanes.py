"""Workers during planning, and an index that finds the one that would start a group soonest without asking all."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from farm.scheduler.group import Group, Need
from farm.scheduler.score import Rates, start_cost, toll

#: Soonest free lanes that are looked at per shelf and kind (with room, and full).
TOP = 4
#: Lanes, soonest free first, that are known by an adapter on their disk: more would not be looked at, and disks are large.
STORED = 32


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

    def suits(self, need: Need) -> bool:
        """Whether a job's pins allow this worker."""
        enough = not need.memory_bytes or not self.memory_bytes or self.memory_bytes >= need.memory_bytes
        return enough and need.tags <= self.tags


class Lane:
    """One worker during planning: its view, moved on by what was given to it."""

    __slots__ = ("busy", "crowd", "kept", "model_key", "more", "slots", "view")

    def __init__(self, view: WorkerView):
        self.view = view
        self.slots = view.free_slots
        self.busy = view.busy_seconds
        self.model_key = view.model_key
        #: of `busy`, seconds kept for jobs that wait for it
        self.kept = 0.0
        #: share of the fleet's workers that are busy
        self.crowd = 0.0
        #: adapters that come with what was given
        self.more: set[str] = set()

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
        """Seconds of `start_cost` and of `toll`."""
        view, cold, cold_bytes = self.view, 0, 0
        for sha, size in need.adapters:
            if sha not in view.adapters and sha not in self.more:
                cold += 1
                if sha not in view.disk:
                    cold_bytes += size
        model_hot = self.model_key == need.model_key
        if model_hot and not cold:
            return 0.0, 0.0
        seconds = start_cost(
            view.rates,
            model_key=need.model_key,
            model_hot=model_hot,
            model_bytes=0 if need.model_key in view.disk else need.model_bytes,
            cold_bytes=cold_bytes,
            cold_adapters=cold,
        )
        displaced = None if model_hot else self.model_key
        return seconds, toll(view.rates, displaced=displaced, cold_bytes=cold_bytes)

    def work(self, group: Group) -> float:
        """Device seconds of one job of the group, once started."""
        return self.view.rates.step_seconds(group.key.batch_key) * group.steps

    def keep(self, seconds: float) -> None:
        self.kept += seconds
        self.busy += seconds

    def take(self, group: Group) -> None:
        need = group.key.need
        self.busy += self.cost(need) + self.work(group)
        self.model_key = need.model_key
        self.more.update(sha for sha, _ in need.adapters)


class Shelf:
    """Lanes of one kind, soonest free first. Entries are put right lazily, as lanes become busier."""

    def __init__(self, lanes: Iterable[Lane]):
        self._room: list[tuple[float, str, Lane]] = []
        self._full: list[tuple[float, str, Lane]] = []
        for lane in lanes:
            (self._room if lane.slots > 0 else self._full).append((lane.busy, lane.view.name, lane))
        heapq.heapify(self._room)
        heapq.heapify(self._full)

    def soonest(self) -> Iterator[Lane]:
        yield from self._top(self._room, room=True)
        yield from self._top(self._full, room=False)

    def _top(self, heap: list[tuple[float, str, Lane]], *, room: bool) -> list[Lane]:
        found: list[tuple[float, str, Lane]] = []
        while heap and len(found) < TOP:
            entry = heapq.heappop(heap)
            lane = entry[2]
            if room and lane.slots <= 0:
                heapq.heappush(self._full, (lane.busy, lane.view.name, lane))
            elif entry[0] != lane.busy:
                heapq.heappush(heap, (lane.busy, lane.view.name, lane))
            else:
                found.append(entry)
        for entry in found:
            heapq.heappush(heap, entry)
        return [entry[2] for entry in found]


class Fleet:
    """All lanes of a round, with shelves by what the waiting groups want: a model, an adapter, a pin."""

    def __init__(self, workers: Iterable[WorkerView], needs: Iterable[Need]):
        self.lanes = [Lane(view) for view in workers]
        self.needs = set(needs)
        self.looked = 0
        crowd = sum(lane.busy > 0 for lane in self.lanes) / max(1, len(self.lanes))
        for lane in self.lanes:
            lane.crowd = crowd
        self.shelve()

    def shelve(self) -> None:
        """Build the shelves anew from the lanes as they are."""
        wanted = {sha for need in self.needs for sha, _ in need.adapters}
        kinds: dict[object, list[Lane]] = self._stored(wanted)
        for lane in self.lanes:
            kinds.setdefault(("model", lane.model_key), []).append(lane)
            for sha in wanted & (lane.view.adapters | lane.more if lane.more else lane.view.adapters):
                kinds.setdefault(("adapter", sha), []).append(lane)
        for need in self.needs:
            if need.pinned:
                kinds[need] = [lane for lane in self.lanes if lane.view.suits(need)]
        self._kinds = kinds
        self._shelves: dict[object, Shelf] = {kind: Shelf(lanes) for kind, lanes in kinds.items()}
        self._all = Shelf(self.lanes)
        self._models = {lane.model_key for lane in self.lanes}

    def _stored(self, wanted: set[str]) -> dict[object, list[Lane]]:
        """Lanes by the wanted adapters on their disks."""
        kinds: dict[object, list[Lane]] = {}
        scarce = set(wanted)
        for lane in sorted(self.lanes, key=lambda lane: (lane.busy, lane.view.name)):
            for sha in scarce & lane.view.disk:
                lanes = kinds.setdefault(("disk", sha), [])
                lanes.append(lane)
                if len(lanes) >= STORED:
                    scarce.discard(sha)
        return kinds

    def best(self, need: Need, *, room: bool = False) -> Lane | None:
        """The lane with the least bid for `need`, among those with room only if asked; None: no lane suits."""
        best: tuple[float, str, Lane] | None = None
        for shelf in self._of(need):
            for lane in shelf.soonest():
                self.looked += 1
                if (room and lane.slots <= 0) or (need.pinned and not lane.view.suits(need)):
                    continue
                entry = (lane.bid(need), lane.view.name, lane)
                if best is None or entry[:2] < best[:2]:
                    best = entry
        return best[2] if best else None

    def holders(self, sha: str) -> list[Lane]:
        """Lanes that have a wanted adapter in memory or on disk; of very many, some."""
        return list(
            dict.fromkeys(lane for place in ("adapter", "disk") for lane in self._kinds.get((place, sha), ()))
        )

    def _of(self, need: Need) -> Iterator[Shelf]:
        if need.pinned:
            yield self._shelves[need]
        else:
            yield self._all
        where = [(place, sha) for sha, _ in need.adapters for place in ("adapter", "disk")]
        for kind in (("model", need.model_key), *where):
            if kind in self._shelves:
                yield self._shelves[kind]
