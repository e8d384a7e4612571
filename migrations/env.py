"""Alembic's environment: uses the connection that `farm.db.migrate` opened, or opens FARM_DATABASE_URL itself."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from farm.db.engine import make_engine
from farm.db.models import Base
from farm.settings import load_settings


def run(connection: Connection) -> None:
    # a lock that cannot be had soon makes the migration fail instead of stopping the farm behind it
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("set local lock_timeout = '5s'")
        # two processes that start together migrate one after the other
        connection.exec_driver_sql("select pg_advisory_xact_lock(5131072)")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = make_engine(load_settings().resolved_database_url())
    with engine.begin() as opened:
        run(opened)
    engine.dispose()
