"""The migrated schema is the models' schema, on both databases; each database keeps what the code relies on."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from farm.db.engine import make_engine, migrate, schema_state
from farm.db.models import Base, Batch
from tests.support.databases import PostgresServer
from tests.support.jobs import NOW


def test_migrations_give_the_models_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_checks_of_a_migrated_and_a_fresh_schema_agree(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        urls = [f"sqlite:///{tmp_path / name}.db" for name in ("migrated", "fresh")]
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        urls = [server.fresh(empty=True), server.fresh(empty=True)]
    migrate(urls[0])
    found = []
    for url in urls:
        engine = make_engine(url)
        if url == urls[1]:
            Base.metadata.create_all(engine)
        inspector = inspect(engine)
        found.append(
            {
                table: (
                    sorted(
                        (str(c["name"]), str(c["sqltext"])) for c in inspector.get_check_constraints(table)
                    ),
                    sorted(
                        (str(c["name"]), tuple(c["column_names"]))
                        for c in inspector.get_unique_constraints(table)
                    ),
                    sorted((str(k["name"]), k["referred_table"]) for k in inspector.get_foreign_keys(table)),
                    sorted((str(i["name"]), tuple(i["column_names"])) for i in inspector.get_indexes(table)),
                )
                for table in inspector.get_table_names()
                if table != "alembic_version"
            }
        )
        engine.dispose()
    assert found[0] == found[1]


def test_migrating_twice_changes_nothing(database_url: str, engine: Engine) -> None:
    migrate(database_url)
    have, want = schema_state(engine)
    assert have == want is not None


def test_an_empty_database_has_no_revision(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    have, want = schema_state(engine)
    assert (have, bool(want)) == (None, True)
    engine.dispose()


def test_foreign_keys_are_enforced(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.add(Batch(id="batch_1", owner_id="nobody", name="", total=0, created_at=NOW))


def test_sqlite_is_durable_and_patient(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'farm.db'}")
    with engine.connect() as connection:
        assert connection.execute(text("pragma journal_mode")).scalar() == "wal"
        assert connection.execute(text("pragma synchronous")).scalar() == 2  # FULL
        assert connection.execute(text("pragma busy_timeout")).scalar() == 10_000
    engine.dispose()


def test_a_transaction_that_read_first_may_still_write(sessions: sessionmaker[Session]) -> None:
    """On SQLite a plain transaction would fail here with "database is locked" as soon as it writes."""
    with sessions() as first, sessions() as second:
        first.execute(text("select count(*) from users")).scalar()
        second.execute(text("insert into leases (name, holder, epoch, seq) values ('a', 'x', 1, 0)"))
        second.commit()
        assert first.execute(text("select count(*) from leases")).scalar() == 1
        first.execute(text("update leases set seq = seq + 1"))
        first.commit()
    with sessions() as session:
        assert session.execute(text("select seq from leases")).scalar() == 1


def test_rolled_back_is_undone(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        session.execute(text("insert into leases (name, holder, epoch, seq) values ('a', 'x', 1, 0)"))
        session.rollback()
        assert session.execute(text("select count(*) from leases")).scalar() == 0
