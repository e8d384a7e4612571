"""The farm's own database, store and Redis, for operators' commands that do not go through the API."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from farm.db.engine import make_engine, make_sessions
from farm.settings import Settings, load_settings
from farm.store.s3 import Store, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    sessions: sessionmaker[Session]
    store: Store


def with_info_file(settings: Settings) -> Settings:
    """Settings completed by what a running `farm up` wrote into its data folder; the environment wins."""
    path = settings.data_dir / "farm.json"
    if settings.s3_endpoint or not path.exists():
        return settings
    info = json.loads(path.read_text())
    return load_settings(
        database_url=settings.database_url or info["database_url"],
        redis_url=settings.redis_url.get_secret_value() or info["redis_url"],
        s3_endpoint=info["s3"]["endpoint"],
        s3_access_key=info["s3"]["access_key"],
        s3_secret_key=info["s3"]["secret_key"],
        s3_bucket=info["s3"]["bucket"],
    )


def open_farm(settings: Settings | None = None) -> Direct:
    """Open database and store of the farm that the environment or the data folder names.

    Raises:
        BadRequest: no store is known.
    """
    settings = with_info_file(settings or load_settings())
    engine = make_engine(settings.resolved_database_url())
    return Direct(sessions=make_sessions(engine), store=open_store(settings))
