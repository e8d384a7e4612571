"""The built-in model and its adapters, put into a farm that has none, so that the first prompt can be typed at once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session, sessionmaker

from farm.demo import catalog
from farm.ids import UserId
from farm.jobs import adapters, models
from farm.jobs.ingest import add_adapter, add_model
from farm.store.s3 import Store


def seed_demo(sessions: sessionmaker[Session], store: Store, owner_id: UserId, now: datetime) -> bool:
    """Register what is missing by name; returns whether anything was. A person's own deletions stay deleted."""
    with sessions() as session:
        if models.exists(session, catalog.MODEL_NAME):
            return False
        known = adapters.known_names(session)
    for adapter in catalog.ADAPTERS:
        if adapter.name.casefold() not in known:
            add_adapter(sessions, store, owner_id, adapter.path, adapter.name, now, adapter.preview)
    # the model last: it marks the seeding as done
    add_model(sessions, store, owner_id, catalog.MODEL_DIR, catalog.MODEL_NAME, now)
    return True
