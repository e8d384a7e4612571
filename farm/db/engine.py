"""One way to open SQLite and PostgreSQL, with the same meaning: READ COMMITTED, short write transactions, durable commits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from farm.db.migrate import migrate, schema_state

__all__ = ["make_engine", "make_sessions", "migrate", "schema_state"]

BUSY_MILLISECONDS = 10_000
#: seconds after which a request gives up on a database that is away or busy with others
CONNECT_SECONDS = 2
#: a process that froze within a transaction holds its rows no longer than a lease; else the leader would wait for it
IDLE_MILLISECONDS = 30_000

#: statements that need no write transaction on SQLite
_READS = frozenset({"SELECT", "PRAGMA", "EXPLAIN", "VALUES"})


def make_engine(url: str, *, pool_size: int = 5, max_overflow: int = 10) -> Engine:
    """An engine for `sqlite:///…` or `postgresql://…`; nothing is connected to yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, pool_size, max_overflow)
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_pre_ping=True,
        # errors go to logs, prompts do not
        hide_parameters=True,
        pool_timeout=CONNECT_SECONDS,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "options": f"-c idle_in_transaction_session_timeout={IDLE_MILLISECONDS}",
        },
    )


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """Sessions whose objects stay readable after a commit."""
    return sessionmaker(engine, expire_on_commit=False)


def _sqlite(url: URL, pool_size: int, max_overflow: int) -> Engine:
    # isolation_level None: the driver opens no transactions of its own, `_begin_to_write` does
    connect: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
    options: dict[str, Any] = {"connect_args": connect, "hide_parameters": True}
    if url.database in (None, "", ":memory:"):
        options["poolclass"] = StaticPool
    else:
        options |= {"pool_size": pool_size, "max_overflow": max_overflow}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "before_cursor_execute", _begin_to_write)
    return engine


def _configure(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # FULL: a commit that was answered survives a power cut
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_to_write(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Open the transaction with the first statement that writes, and take the write lock at once.

    Reads before it see the newest commit, each for itself, as under PostgreSQL's READ COMMITTED. A transaction that
    began by reading and then wrote would fail at once, without waiting, whenever another had written in between.
    """
    if cursor.connection.in_transaction:
        return
    word = statement.lstrip().split(None, 1)[0].upper()
    if word not in _READS:
        cursor.execute("BEGIN IMMEDIATE")
