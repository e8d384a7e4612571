"""Whether the store answers, asked now and then beside the rounds: while it does not, nothing that needs it is begun."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from farm.clock import Clock
from farm.errors import FarmError

log = structlog.get_logger()

LOOK_SECONDS = 2.0
#: Looks in a row without an answer, after which the store counts as away: one may be lost on any network.
MISSES = 2


class StoreWatch:
    """Remembers since when the store has been away."""

    def __init__(
        self, ask: Callable[[], object], clock: Clock, aside: Callable[[Callable[[], object]], None]
    ):
        self._ask = ask
        self._clock = clock
        self._aside = aside
        self._looked_at: float | None = None
        self._misses = 0
        #: of the first look without an answer
        self._since: datetime | None = None

    def away_since(self) -> datetime | None:
        """Since when the store does not answer, None while it does; has it asked again if that was a while ago."""
        monotonic = self._clock.monotonic()
        if self._looked_at is None or monotonic - self._looked_at >= LOOK_SECONDS:
            self._looked_at = monotonic
            self._aside(self._look)
        return self._since if self._misses >= MISSES else None

    def _look(self) -> None:
        try:
            self._ask()
        except FarmError as error:
            self._since = self._since or self._clock.now()
            self._misses += 1
            if self._misses == MISSES:
                log.warning("store_away", error=str(error))
            return
        if self._misses >= MISSES:
            log.info("store_back")
        self._misses, self._since = 0, None
