"""Waiting for a service that is away: the same action again, with growing pauses, for as long as it makes sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError

from farm.clock import Clock
from farm.errors import NoRoom, Transient
from farm.worker.held import Hands, HeldJob

log = structlog.get_logger(__name__)

R = TypeVar("R")

#: A database or store that is away this long is no short trouble any more.
LIMIT_SECONDS = 600.0
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
#: While it pauses, how often it looks whether the job may still go on.
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to try. A stopping worker tries until its time is over, not longer."""

    hands: Hands
    clock: Clock
    limit_seconds: float = LIMIT_SECONDS

    def until_done(self, what: str, action: Callable[[], R], held: HeldJob | None = None) -> R:
        """The result of `action`, tried again after Transient errors and while the database is away.

        With `held`, a job that must not go on ends the waiting.

        Raises:
            Transient, DBAPIError: the last trouble, when there is no more time.
            Interrupted: see `HeldJob.check`.
        """
        deadline = self.clock.monotonic() + self.limit_seconds
        tries = 0
        while True:
            try:
                return action()
            except (Transient, DBAPIError) as error:
                pause = PAUSES[min(tries, len(PAUSES) - 1)]
                tries += 1
                left = deadline - self.clock.monotonic()
                stopping = self.hands.seconds_left()
                if stopping is not None:
                    left = min(left, stopping)
                if left < pause or isinstance(error, NoRoom):
                    raise
                (log.warning if tries == 1 else log.info)(
                    "trying_again", what=what, tries=tries, pause_seconds=pause, error=_line(error)
                )
            until = self.clock.monotonic() + pause
            while (rest := until - self.clock.monotonic()) > 0:
                if held is not None:
                    held.check()
                self.clock.sleep(min(rest, _LOOK_SECONDS))


def _line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).split("\n", 1)[0][:200]
