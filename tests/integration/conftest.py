"""Databases and workers for integration tests: every test that takes `database_url` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from farm.clock import SystemClock
from farm.db.engine import make_engine, make_sessions, migrate
from farm.embedded.servers import SeaweedServer
from farm.store.s3 import Store
from farm.worker.effects import Effects
from farm.worker.worker import Worker
from tests.support import tiny_pipelines
from tests.support.databases import PostgresServer
from tests.support.tiny import tiny_sd15
from tests.support.worker import Rig, Start, make_rig


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run, with a migrated template."""
    server = PostgresServer()
    server.start()
    try:
        server.make_template(migrate)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def sqlite_template() -> Iterator[Path]:
    """A migrated file, copied for each test."""
    with tempfile.TemporaryDirectory(prefix="farm-sqlite-") as folder:
        path = Path(folder) / "template.db"
        migrate(f"sqlite:///{path}")
        yield path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """URL of a fresh SQLite database with the present schema."""
    path = tmp_path / "farm.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a fresh database with the present schema."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.fresh()
    yield url
    server.drop(url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url, max_overflow=20)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return make_sessions(engine)


@pytest.fixture(scope="session")
def small_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5, or the tiny model that a test names."""
    if name := getattr(request, "param", None):
        return tiny_pipelines.write(name, tmp_path_factory.mktemp(name))
    return tiny_sd15(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk cache that keeps what earlier tests fetched."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def rig(
    small_model: Path,
    warm_cache: Path,
    tmp_path: Path,
    database_url: str,
    redis_url: str,
    store: Store,
    seaweed: SeaweedServer,
) -> Iterator[Rig]:
    engine = make_engine(database_url)
    sessions: sessionmaker[Session] = make_sessions(engine)
    s3 = {
        "endpoint": seaweed.endpoint, "access_key": seaweed.access_key, "secret_key": seaweed.secret_key,
        "bucket": seaweed.bucket,
    }  # fmt: skip
    yield make_rig(tmp_path, sessions, database_url, redis_url, store, s3, small_model, warm_cache)
    engine.dispose()


@pytest.fixture
def start(rig: Rig) -> Iterator[Start]:
    """Start a worker in this process; its effects may be replaced, its settings changed."""
    started: list[Worker] = []

    def start(wrap: Callable[[Effects], Effects] = lambda effects: effects, **settings: Any) -> Worker:
        worker = Worker(rig.settings.model_copy(update=settings), SystemClock(), wrap)
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        if not worker.hands.stopping.is_set():
            worker.stop()
