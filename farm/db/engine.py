"""One way to open SQLite and PostgreSQL, with the same meaning: READ COMMITTED, short write transactions, durable commits."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker


def make_engine(url: str) -> Engine:
    """An engine for `sqlite:///…` or `postgresql://…`; nothing is connected to yet."""
    raise NotImplementedError


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after a commit."""
    raise NotImplementedError


def migrate(url: str) -> None:
    """Bring the schema up to date."""
    raise NotImplementedError


def schema_state(engine: Engine) -> tuple[str | None, str | None]:
    """(revision of the database, newest revision known here)."""
    raise NotImplementedError
