"""Two small limits of one process: how often something may fail, and how many of something may be open."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable


class Throttle:
    """Counts events by key within a sliding window.

    >>> seconds = [0.0]
    >>> throttle = Throttle(limit=2, window_seconds=60, monotonic=lambda: seconds[0])
    >>> throttle.hit("a"); throttle.hit("a"); throttle.wait_seconds("a")
    60.0
    >>> seconds[0] = 61; throttle.wait_seconds("a")
    0.0
    """

    def __init__(self, *, limit: int, window_seconds: float, monotonic: Callable[[], float]):
        self._limit = limit
        self._window = window_seconds
        self._monotonic = monotonic
        self._hits: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def hit(self, key: str) -> None:
        """Count one event of `key`."""
        with self._lock:
            self._forget()
            self._hits.setdefault(key, deque(maxlen=self._limit)).append(self._monotonic())

    def wait_seconds(self, key: str) -> float:
        """Seconds until `key` is below its limit again; 0 when it is now."""
        with self._lock:
            self._forget()
            hits = self._hits.get(key)
            if hits is None or len(hits) < self._limit:
                return 0.0
            return max(0.0, hits[0] + self._window - self._monotonic())

    def _forget(self) -> None:
        horizon = self._monotonic() - self._window
        for key in [key for key, hits in self._hits.items() if hits[-1] <= horizon]:
            del self._hits[key]


class Slots:
    """At most `total` things open at once, `each` of them for one key.

    >>> slots = Slots(total=2, each=1)
    >>> slots.take("a"), slots.take("a"), slots.take("b"), slots.take("c")
    (True, False, True, False)
    >>> slots.give("a"); slots.take("c")
    True
    """

    def __init__(self, *, total: int, each: int):
        self._total = total
        self._each = each
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, key: str) -> bool:
        """True when a slot was free and is now taken; give it back with `give`."""
        with self._lock:
            if self._open.total() >= self._total or self._open[key] >= self._each:
                return False
            self._open[key] += 1
            return True

    def give(self, key: str) -> None:
        with self._lock:
            self._open[key] -= 1
            if self._open[key] <= 0:
                del self._open[key]
