"""What waits for the device, first come first served, and the turn that each thread of a job waits for."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from farm.worker.ride import Ride


@dataclass(slots=True, eq=False)
class Turn:
    """One job's turn on the device, and what came of it: something done at a stroke, or a ride beside others."""

    act: Callable[[], Any] | None = None
    ride: Ride | None = None
    #: whether the turn may begin; raises when it may not
    check: Callable[[], None] = lambda: None
    #: what the caller's thread logs with
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False
    result: Any = None
    error: BaseException | None = None

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give the caller what came of it."""
        self.result, self.error = result, error
        self.ended.set()


class Line:
    """Turns in the order in which they came. One thread takes, any may put."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: deque[Turn] = deque()
        self._closed = False

    def put(self, turn: Turn) -> None:
        with self._changed:
            self._turns.append(turn)
            self._changed.notify()

    def close(self) -> None:
        """Nothing more comes; what is there is still served."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def over(self) -> bool:
        """Whether nothing is left and nothing comes any more."""
        with self._changed:
            return self._closed and not self._turns

    def head(self, *, wait: bool) -> Turn | None:
        """The turn that is next, left where it is; None: there is none now, or with `wait` the line is over."""
        with self._changed:
            while True:
                while self._turns and self._turns[0].given_up:
                    self._turns.popleft()
                if self._turns or self._closed or not wait:
                    return self._turns[0] if self._turns else None
                self._changed.wait()

    def take(self) -> Turn:
        """Take out the turn that `head` gave."""
        with self._changed:
            return self._turns.popleft()
