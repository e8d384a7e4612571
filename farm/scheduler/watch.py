"""Which counters have stood still for longer than a lease, by the leader's own monotonic clock."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class StandstillWatch(Generic[Key]):
    """Follows counters (heartbeats) over rounds.

    Time in which nobody looked, because SQL was away or this process was stopped, does not count: else a
    database restart would make every job look abandoned.
    """

    def __init__(self, lease_seconds: float, longest_round: float):
        self._lease_seconds = lease_seconds
        self._longest_round = longest_round
        self._seen: dict[Key, tuple[object, float]] = {}
        self._looked_at: float | None = None

    def observe(self, counters: Mapping[Key, object], monotonic: float) -> list[Key]:
        """Note the counters as they are; return the keys that have not moved for a lease."""
        blind = 0.0
        if self._looked_at is not None:
            blind = max(0.0, monotonic - self._looked_at - self._longest_round)
        self._looked_at = monotonic
        seen: dict[Key, tuple[object, float]] = {}
        for key, counter in counters.items():
            before = self._seen.get(key)
            moved = before is None or before[0] != counter
            seen[key] = (counter, monotonic if before is None or moved else before[1] + blind)
        self._seen = seen
        return self.still(monotonic, self._lease_seconds)

    def still(self, monotonic: float, seconds: float) -> list[Key]:
        """Keys that have not moved for so long, of those last observed."""
        return [key for key, (_, since) in self._seen.items() if monotonic - since >= seconds]
