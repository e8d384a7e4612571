"""Databases and workers for integration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from farm.clock import SystemClock
from farm.db.engine import make_engine, make_sessions
from farm.embedded.servers import SeaweedServer
from farm.store.s3 import Store
from farm.worker.effects import Effects
from farm.worker.worker import Worker
from tests.support import tiny_pipelines
from tests.support.stores import database_url, engine, postgres, sessions, sqlite_template, sqlite_url
from tests.support.tiny import tiny_sd15
from tests.support.worker import Rig, Start, make_rig

__all__ = ["database_url", "engine", "postgres", "sessions", "sqlite_template", "sqlite_url"]


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
