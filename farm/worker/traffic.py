"""Who has the network: the fetches of jobs at once, what is fetched early only while no job fetches.

A job that wants the very file that is being fetched early does not begin anew: it waits for the rest, and takes the file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOK_SECONDS = 0.2


class Early:
    """One file on its way to `path` before any job asked for it. Its fields are changed under the lock of `Traffic`."""

    def __init__(self, sha256: str, path: Path):
        self.sha256 = sha256
        self.path = path
        #: a job waits for it
        self.wanted = False
        #: it is whole, or it will never be
        self.done = False
        self.whole = False


class Traffic:
    """Shared by the threads of jobs and the one that fetches early."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._fetching = 0
        self._early: Early | None = None

    def fetch(self, sha256: str, path: Path, fetch: Callable[[], None], check: Callable[[], None]) -> None:
        """A job's fetch of one file to `path`: what came early is taken, else `fetch` brings it. `check` may raise."""
        with self._job():
            if not self._take(sha256, path, check):
                fetch()

    @contextmanager
    def early(self, sha256: str, path: Path) -> Iterator[Early]:
        """The file that is now fetched early."""
        early = Early(sha256, path)
        with self._changed:
            self._early = early
        try:
            yield early
        finally:
            with self._changed:
                self._early, early.done = None, True
                self._changed.notify_all()

    def arrived(self, early: Early) -> None:
        with self._changed:
            early.done = early.whole = True
            self._changed.notify_all()

    def take(self, early: Early, path: Path) -> bool:
        """Move a whole file to `path`; False when somebody was faster."""
        with self._changed:
            if not early.whole:
                return False
            early.whole = False
            early.path.rename(path)
            return True

    def wait_turn(self, early: Early | None, goes_on: Callable[[], bool]) -> bool:
        """Wait until no job fetches, unless it waits for this very file; False once `goes_on` does not hold."""
        while goes_on():
            with self._changed:
                if not self._fetching or (early is not None and early.wanted):
                    return True
                self._changed.wait(_LOOK_SECONDS)
        return False

    def _take(self, sha256: str, path: Path, check: Callable[[], None]) -> bool:
        with self._changed:
            early = self._early
            if early is None or early.sha256 != sha256:
                return False
            early.wanted = True
            self._changed.notify_all()
        while True:
            with self._changed:
                if early.done:
                    break
                self._changed.wait(_LOOK_SECONDS)
            check()
        return self.take(early, path)

    @contextmanager
    def _job(self) -> Iterator[None]:
        with self._changed:
            self._fetching += 1
        try:
            yield
        finally:
            with self._changed:
                self._fetching -= 1
                self._changed.notify_all()
