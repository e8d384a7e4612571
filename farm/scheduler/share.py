"""Whose turn it is: priority classes with ageing, and inside a class fair sharing of device seconds between users.

Each user has a virtual time: device seconds given, divided by the user's weight. The turn is with those whose virtual time
is within one quantum of the least, so that they may be served in the order that suits the caches; a user who comes back
starts at the least, and so cannot save up. The bound is that of deficit round robin (Shreedhar and Varghese 1995): users
who both wait are never further apart than one quantum and one job.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from farm.scheduler.group import Group, GroupKey, Head
from farm.scheduler.quota import Quota

#: Device seconds by which one user may run ahead of another.
QUANTUM_SECONDS = 30.0
#: Waiting this long lifts a job by one priority class.
AGEING_SECONDS = 1800.0
CLASSES = 3
#: Users whose groups are compared for one slot.
USERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What one round hands to the next, and a leader to its successor."""

    #: by user, for those above `floor`
    virtual: Mapping[str, float] = field(default_factory=dict)
    floor: float = 0.0
    #: how many younger jobs of the same user and class went before the group's oldest
    passed: Mapping[GroupKey, int] = field(default_factory=dict)
    #: by worker, the adapter in demand that it was told to hold too
    ahead: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What a new leader is to know; who was passed over is counted anew."""
        virtual = {owner: round(value, 3) for owner, value in self.virtual.items() if value > self.floor}
        return {"virtual": virtual, "floor": round(self.floor, 3)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Ledger:
        """The ledger that `as_dict` gave; what is missing is a fair start.

        >>> Ledger.from_dict(Ledger(virtual={"ann": 5.0}, floor=2.0).as_dict()).virtual
        {'ann': 5.0}
        """
        return cls(virtual=dict(row.get("virtual", {})), floor=float(row.get("floor", 0.0)))


def charged(ledger: Ledger, owner: str, seconds: float, weight: float) -> Ledger:
    """The ledger with device seconds booked to a user beyond what the round gave."""
    before = max(ledger.virtual.get(owner, 0.0), ledger.floor)
    return replace(ledger, virtual={**ledger.virtual, owner: before + seconds / max(1e-3, weight)})


class Open:
    """A group during one round."""

    __slots__ = ("created", "group", "lined", "number", "passed", "rank", "reserved", "since", "taken")

    def __init__(self, group: Group, number: int, passed: int):
        self.group = group
        self.number = number
        self.passed = passed
        #: heads given out
        self.taken = 0
        #: heads that wait for a lane without room
        self.reserved = 0
        self.created = 0.0
        #: when its oldest job that is left came into the class where it stands
        self.since = 0.0
        self.rank = 0
        #: whether it stands in its user's line
        self.lined = False

    @property
    def head(self) -> Head:
        return self.group.heads[self.taken]

    def waiting(self) -> int:
        """Heads that no lane was given."""
        return len(self.group.heads) - self.taken

    def left(self) -> int:
        """Of these, those that do not wait for a certain lane."""
        return len(self.group.heads) - self.taken - self.reserved


class Turns:
    """Open groups by class and user."""

    def __init__(self, ledger: Ledger, weights: Mapping[str, float], now: float):
        self._weights = weights
        self._now = now
        self._floor = ledger.floor
        self.virtual = dict(ledger.virtual)
        #: by class, the two users with the least virtual times of those who wait in it
        self._least: dict[int, list[tuple[float, str]]] = {}
        #: class -> user -> (since, number, group), oldest first
        self._lines: list[dict[str, list[tuple[float, int, Open]]]] = [{} for _ in range(CLASSES)]
        self._order: list[list[tuple[float, str]]] = [[] for _ in range(CLASSES)]
        self.unindex()

    def begin(self, items: Iterable[Open]) -> None:
        """Line up all groups that may be given."""
        items = list(items)
        for priority, owner in sorted({(item.group.key.priority, item.group.key.owner_id) for item in items}):
            least = [*self._least.get(priority, ()), (self._of(owner), owner)]
            self._least[priority] = sorted(least)[:2]
        for item in items:
            self.put(item)
            self.index(item)

    def put(self, item: Open) -> None:
        """Line a group up by its oldest job that is left."""
        key = item.group.key
        item.created = item.head.created_at.timestamp()
        lifts = min(key.priority, int(max(0.0, self._now - item.created) // AGEING_SECONDS))
        if lifts and self._is_ahead(key.owner_id, key.priority):
            # a long backlog is old throughout: age lifts it past nobody of its class who has had less
            lifts = 0
        item.rank = key.priority - lifts
        # it stands behind those who were in that class before it was lifted there
        item.since = item.created + lifts * AGEING_SECONDS
        line = self._lines[item.rank].setdefault(key.owner_id, [])
        if not line:
            insort(self._order[item.rank], (self._of(key.owner_id), key.owner_id))
        insort(line, (item.since, item.number, item))
        item.lined = True

    def index(self, item: Open) -> None:
        """Let the group be found by what it wants."""
        need = item.group.key.need
        for want in (need.model_key, *(sha for sha, _ in need.adapters)):
            self._by_want[item.rank].setdefault(want, []).append(item)

    def unindex(self) -> None:
        #: class -> what it wants -> groups, those that are out of line among them
        self._by_want: list[dict[str, list[Open]]] = [{} for _ in range(CLASSES)]

    def wanting(self, rank: int, want: str, most: int) -> list[Open]:
        """At most so many groups of a class that want this model or adapter."""
        items = self._by_want[rank].get(want)
        if not items:
            return []
        found: list[Open] = []
        place = 0
        while place < len(items) and len(found) < most:
            if items[place].rank == rank and items[place].lined:
                found.append(items[place])
                place += 1
            else:
                del items[place]
        return found

    def drop(self, item: Open) -> None:
        """Take a group out of its line."""
        owner = item.group.key.owner_id
        line = self._lines[item.rank][owner]
        del line[bisect_left(line, (item.since, item.number))]
        item.lined = False
        if not line:
            self._forget(item.rank, owner)

    def drop_full(self, owner: str, quota: Quota) -> None:
        """Take those of a user's groups out of line that a limit holds now."""
        for rank, lines in enumerate(self._lines):
            line = lines.get(owner)
            if not line:
                continue
            for _, _, item in line:
                item.lined = not quota.full(owner, item.group.key.key_id)
            line[:] = [entry for entry in line if entry[2].lined]
            if not line:
                self._forget(rank, owner)

    def over(self) -> bool:
        """Whether nobody stands in line."""
        return not any(self._order)

    def lines(self, rank: int) -> dict[str, list[tuple[float, int, Open]]]:
        """The users of a class whose turn it is, with their groups, oldest first."""
        order = self._order[rank]
        if not order:
            return {}
        end = order[0][0] + QUANTUM_SECONDS
        return {owner: self._lines[rank][owner] for virtual, owner in order[:USERS] if virtual <= end}

    def charge(self, owner: str, seconds: float) -> None:
        """Book device seconds to a user."""
        before = self._of(owner)
        after = before + seconds / max(1e-3, self._weights.get(owner, 1.0))
        for order in self._order:
            place = bisect_left(order, (before, owner))
            if place < len(order) and order[place] == (before, owner):
                del order[place]
                insort(order, (after, owner))
        self.virtual[owner] = after

    def close(
        self, passed: Mapping[GroupKey, int], waiting: Collection[str], ahead: Mapping[str, str]
    ) -> Ledger:
        """The ledger after the round; `waiting`: users who still wait."""
        floor = min((self._of(owner) for owner in waiting), default=self._floor)
        return Ledger(
            virtual={owner: value for owner, value in self.virtual.items() if value > floor},
            floor=floor,
            passed=passed,
            ahead=ahead,
        )

    def _is_ahead(self, owner: str, priority: int) -> bool:
        """Whether a user has had more than a quantum more than another one who waits in this class."""
        others = (virtual for virtual, other in self._least[priority] if other != owner)
        return self._of(owner) > min(others, default=float("inf")) + QUANTUM_SECONDS

    def _of(self, owner: str) -> float:
        return max(self.virtual.get(owner, 0.0), self._floor)

    def _forget(self, rank: int, owner: str) -> None:
        order = self._order[rank]
        del order[bisect_left(order, (self._of(owner), owner))]
