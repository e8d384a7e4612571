"""Workers during planning, and an index that finds the one that would start a group soonest without asking all."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from farm.scheduler.batches import Batch, Boarding
from farm.scheduler.group import Group, Need
from farm.scheduler.score import Rates, start_cost

#: Soonest free lanes that are looked at per shelf and kind (with room, and full).
TOP = 4


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
        enough = not need.memory_bytes or not self.memory_bytes or self.memory_bytes >= need.memory_bytes
        return enough and need.tags <= self.tags


class Lane:
    """One worker during planning: its view, moved on by what was given to it."""

    __slots__ = ("boarding", "busy", "kept", "model_key", "more", "slots", "view")

    def __init__(self, view: WorkerView):
        self.view = view
        self.slots = view.free_slots
        self.boarding = Boarding(view.batch, view.batch_sizes)
        self.busy = view.busy_seconds
        self.model_key = view.model_key
        #: of `busy`, seconds kept for jobs that wait for it
        self.kept = 0.0
        #: adapters that come with what was given
        self.more: set[str] = set()

    @property
    def open(self) -> bool:
        """Whether it takes anything now."""
        return self.slots > 0 or self.boarding.seats > 0

    def holds(self, sha: str) -> bool:
        return sha in self.view.adapters or sha in self.more

    def hot(self, need: Need) -> int:
        """How many of the adapters it will have in memory."""
        return sum(self.holds(sha) for sha, _ in need.adapters)

    def cost(self, need: Need) -> float:
        """Seconds from a free device to the first step."""
        view = self.view
        cold = [item for item in need.adapters if not self.holds(item[0])]
        model_hot = self.model_key == need.model_key
        if model_hot and not cold:
            return 0.0
        return start_cost(
            view.rates,
            model_key=need.model_key,
            model_hot=model_hot,
            model_bytes=0 if need.model_key in view.disk else need.model_bytes,
            cold_bytes=sum(size for sha, size in cold if sha not in view.disk),
            cold_adapters=len(cold),
        )

    def start(self, need: Need) -> float:
        return self.busy + self.cost(need)

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
        self.shelve()

    def shelve(self) -> None:
        """Build the shelves anew from the lanes as they are."""
        wanted = {sha for need in self.needs for sha, _ in need.adapters}
        kinds: dict[object, list[Lane]] = {}
        for lane in self.lanes:
            kinds.setdefault(("model", lane.model_key), []).append(lane)
            for sha in wanted & (lane.view.adapters | lane.more if lane.more else lane.view.adapters):
                kinds.setdefault(("adapter", sha), []).append(lane)
        for need in self.needs:
            if need.pinned:
                kinds[need] = [lane for lane in self.lanes if lane.view.suits(need)]
        self._shelves: dict[object, Shelf] = {kind: Shelf(lanes) for kind, lanes in kinds.items()}
        self._all = Shelf(self.lanes)
        self._models = {lane.model_key for lane in self.lanes}

    def best(self, need: Need, *, room: bool = False) -> Lane | None:
        """The lane that would start `need` soonest, among those with room only if asked; None: no lane suits."""
        best: tuple[float, str, Lane] | None = None
        for shelf in self._of(need):
            for lane in shelf.soonest():
                self.looked += 1
                if (room and lane.slots <= 0) or (need.pinned and not lane.view.suits(need)):
                    continue
                entry = (lane.start(need), lane.view.name, lane)
                if best is None or entry[:2] < best[:2]:
                    best = entry
        return best[2] if best else None

    def _of(self, need: Need) -> Iterator[Shelf]:
        if need.pinned:
            yield self._shelves[need]
        else:
            yield self._all
        kinds = [("model", need.model_key), *(("adapter", sha) for sha, _ in need.adapters)]
        for kind in kinds:
            if kind in self._shelves:
                yield self._shelves[kind]
