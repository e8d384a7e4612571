"""A function that runs by turns: in a thread of its own, which stands still whenever it gives something away.

It is for code that runs a loop of its own and lets others look in by a callback only. Whoever holds the `Turns` decides
when the loop goes on, and ends it by letting go.
"""

from __future__ import annotations

import contextvars
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

#: Takes what the function gives and returns when it may go on.
Give = Callable[[Any], None]


class Turns:
    """Runs `work`, which is handed a `Give`. One of the two threads runs at any time, the other waits for it.

    When the object is dropped, the standing function is ended by an exception that passes through it like Ctrl-C, so
    that its `with` and `finally` are honoured; `work` must not refer to the object.
    """

    def __init__(self, work: Callable[[Give], Any], name: str) -> None:
        self.ended = False
        self._work: Callable[[Give], Any] | None = work
        self._name = name
        self._exchange = _Exchange()
        weakref.finalize(self, self._exchange.go_on.put, False)

    def resume(self) -> Any:
        """Let the function go on and return what it gives next; when it has `ended`, what it returned.

        Raises:
            Exception: what the function raised, which ends it.
        """
        if self.ended:
            raise ValueError(f"{self._name} has ended")
        if self._work is not None:
            context, work = contextvars.copy_context(), self._work
            target = (context.run, (_run, work, self._exchange))
            threading.Thread(target=target[0], args=target[1], name=self._name, daemon=True).start()
            self._work = None
        else:
            self._exchange.go_on.put(True)
        self.ended, value, error = self._exchange.given.get()
        if error is not None:
            try:
                raise error
            finally:
                # its traceback holds this frame, and with it all that the function held
                error = None
        return value


class _Exchange:
    """What the two threads share."""

    def __init__(self) -> None:
        #: whether the function has ended, what it gives, what it raised
        self.given: SimpleQueue[tuple[bool, Any, BaseException | None]] = SimpleQueue()
        #: False: end
        self.go_on: SimpleQueue[bool] = SimpleQueue()

    def give(self, value: Any) -> None:
        self.given.put((False, value, None))
        del value
        if not self.go_on.get():
            raise _Dropped


class _Dropped(BaseException):
    """Nobody waits for the function any more."""


def _run(work: Callable[[Give], Any], exchange: _Exchange) -> None:
    try:
        value, error = work(exchange.give), None
    except _Dropped:
        return
    except BaseException as raised:
        value, error = None, raised
    exchange.given.put((True, value, error))
