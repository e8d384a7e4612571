"""The web application against real servers, for the tests of the API."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from farm.db.engine import migrate
from farm.embedded.servers import SeaweedServer, ValkeyServer
from tests.support.web import WebFarm, fresh_farm, web_app


@pytest.fixture(scope="session")
def migrated() -> Iterator[Path]:
    """A migrated SQLite file, to be copied."""
    with tempfile.TemporaryDirectory(prefix="farm-sqlite-") as folder:
        path = Path(folder) / "template.db"
        migrate(f"sqlite:///{path}")
        yield path


@pytest.fixture(scope="session")
def application(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, valkey: ValkeyServer, seaweed: SeaweedServer
) -> Iterator[Flask]:
    app = web_app(tmp_path_factory.mktemp("web") / "data", migrated, valkey.url, seaweed)
    yield app
    app.extensions["farm"].stopping.set()
    app.extensions["farm"].engine.dispose()


@pytest.fixture
def farm(application: Flask, redis_url: str) -> WebFarm:
    """An empty farm: two users, one model, no adapter, no job."""
    return fresh_farm(application)
