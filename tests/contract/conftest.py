"""The web application against real servers, for the tests of the API."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.db.engine import migrate
from farm.embedded.servers import SeaweedServer
from tests.support.web import WebFarm, web_farm


@pytest.fixture(scope="session")
def migrated() -> Iterator[Path]:
    """A migrated SQLite file, copied for each test."""
    with tempfile.TemporaryDirectory(prefix="farm-sqlite-") as folder:
        path = Path(folder) / "template.db"
        migrate(f"sqlite:///{path}")
        yield path


@pytest.fixture
def farm(tmp_path: Path, migrated: Path, redis_url: str, seaweed: SeaweedServer) -> Iterator[WebFarm]:
    """An empty farm: two users, one model, no adapter, no job."""
    made = web_farm(tmp_path / "data", migrated, redis_url, seaweed)
    yield made
    made.services.stopping.set()
    made.services.engine.dispose()
