"""Time and effects for tests of a worker's parts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from farm.worker.effects import Effects


class ManualClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.on_sleep: Callable[[float], None] = lambda now: None

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.on_sleep(self.seconds)


def effects(**given: Any) -> Effects:
    """Effects of which only the given ones may be used."""

    def unexpected(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            raise AssertionError(f"unexpected effect {name}{arguments}")

        return call

    given = {"ring": lambda: None, **given}
    return Effects(**{name: given.get(name, unexpected(name)) for name in Effects.__dataclass_fields__})
