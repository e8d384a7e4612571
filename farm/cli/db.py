"""`farm db`: the database's schema."""

from __future__ import annotations

import typer

from farm.cli.output import say
from farm.db.engine import migrate
from farm.settings import load_settings

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The database's schema."""


@app.command()
def upgrade() -> None:
    """Bring the schema up to date; safe while the farm runs."""
    migrate(load_settings().resolved_database_url())
    say("The schema is up to date.")
