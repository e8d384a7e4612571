"""Where the migrations are found, and what columns refuse."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from farm.db import migrate
from farm.db.types import UtcDateTime
from farm.errors import Permanent


def test_a_checkout_holds_the_migrations() -> None:
    assert (migrate.find_migrations() / "versions" / "0001_the_first_tables.py").is_file()


def test_an_installation_puts_them_under_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "__file__", str(tmp_path / "farm" / "db" / "migrate.py"))
    monkeypatch.setattr(migrate, "_recorded", lambda: iter(()))
    with pytest.raises(Permanent, match="missing from this installation"):
        migrate.find_migrations()
    folder = tmp_path / "share" / "farm" / "migrations"
    folder.mkdir(parents=True)
    (folder / "env.py").touch()
    assert migrate.find_migrations() == folder


def test_times_are_aware_and_utc() -> None:
    column = UtcDateTime()
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        with pytest.raises(ValueError, match="naive"):
            column.process_bind_param(datetime(2026, 1, 1), dialect)
        assert column.process_result_value(datetime(2026, 1, 1), dialect) == datetime(2026, 1, 1, tzinfo=UTC)
        assert column.process_bind_param(None, dialect) is None
