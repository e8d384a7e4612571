"""A small memory of what was worked out lately, for values that never change under their key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps the `most` values that were asked for last; safe between threads.

    >>> squares: Recent[int, int] = Recent(most=2)
    >>> [squares.get(number, lambda: number * number) for number in (3, 4, 3, 5, 3)]
    [9, 16, 9, 25, 9]
    """

    def __init__(self, most: int):
        self._most = most
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key, make: Callable[[], Value | None]) -> Value | None:
        """The value under `key`, made now when it is not kept; None is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        if made is not None:
            with self._lock:
                self._kept[key] = made
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return made
