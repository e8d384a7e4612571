"""Slow work beside the rounds: one thread at a time, so that a receiver which hangs delays no job."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from sqlalchemy.exc import DBAPIError

log = structlog.get_logger()


class Aside:
    """Call it with what is to be done; while the last work still goes on, the new one is left out."""

    def __init__(self, name: str):
        self._name = name
        self._thread: threading.Thread | None = None

    def __call__(self, work: Callable[[], object]) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        # a daemon: what it leaves half-done at the process' end is done again by the next leader
        self._thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except DBAPIError as error:
            log.warning("database_away", work=self._name, error=str(error.orig))
        except Exception:
            log.exception("work_failed", work=self._name)
