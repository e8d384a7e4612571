"""The schema's revisions: found in the repository or in an installed package, applied to any database."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from farm.errors import Permanent

log = structlog.get_logger(__name__)


def migrate(url: str) -> None:
    """Bring the schema up to date; safe to run twice and by several processes, one after the other.

    A schema of a later version is left as it is: this code runs on it as well.
    """
    from farm.db.engine import make_engine

    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            config = make_config()
            found = MigrationContext.configure(connection).get_current_revision()
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if found is not None and found not in known:
                log.warning("schema_is_newer", revision=found)
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def schema_state(engine: Engine) -> tuple[str | None, str | None]:
    """(revision of the database, newest revision known here); None for a database without our schema."""
    head = ScriptDirectory.from_config(make_config()).get_current_head()
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision(), head


def make_config() -> Config:
    """Alembic's configuration, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(find_migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def find_migrations() -> Path:
    """The folder `migrations`: beside the package in a checkout, else where the wheel has put it.

    Raises:
        Permanent: it is missing from this installation.
    """
    root = Path(__file__).resolve().parents[2]
    for folder in (root / "migrations", root / "share" / "farm" / "migrations", *_recorded()):
        if (folder / "env.py").is_file():
            return folder
    raise Permanent("the folder `migrations` is missing from this installation", "install farm again")


def _recorded() -> Iterator[Path]:
    """Where the installer says that it has put the folder."""
    try:
        files = distribution("farm").files or []
    except PackageNotFoundError:
        return
    for file in files:
        if file.parts[-2:] == ("migrations", "env.py"):
            yield Path(str(file.locate())).resolve().parent
