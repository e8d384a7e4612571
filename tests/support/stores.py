"""Databases for tests, without anything that is above them: every test that takes `database_url` runs on SQLite and on
PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from farm.db.engine import make_engine, make_sessions, migrate
from tests.support.databases import PostgresServer


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server with a migrated template."""
    server = PostgresServer()
    server.start()
    try:
        server.make_template(migrate)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run."""
    with running_postgres() as server:
        yield server


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
