"""Databases, workers and fleets for the chaos tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.fleet import Fleet
from tests.integration.conftest import (
    database_url,
    engine,
    postgres,
    rig,
    sessions,
    small_model,
    sqlite_template,
    sqlite_url,
    start,
    warm_cache,
)
from tests.support.worker import Rig

__all__ = [
    "database_url", "engine", "postgres", "rig", "sessions", "small_model", "sqlite_template", "sqlite_url", "start",
    "warm_cache",
]  # fmt: skip


@pytest.fixture
def fleet(rig: Rig) -> Iterator[Fleet]:
    """No process yet; whatever a test starts is killed at its end."""
    made = Fleet(rig)
    yield made
    made.close()
