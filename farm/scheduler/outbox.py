"""Webhooks that wait in the outbox: delivered at least once, those of one job in order, with growing pauses, for a day."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased, sessionmaker

from farm.db.models import Outbox
from farm.errors import BadRequest, Transient

log = structlog.get_logger()

MAX_TRIES = 12
Deliver = Callable[[str, str, Mapping[str, Any], datetime], None]


def deliver_due(sessions: sessionmaker[Session], deliver: Deliver, now: datetime, limit: int = 20) -> int:
    """Try every message that is due; returns how many were delivered. The network is used outside any transaction."""
    earlier = aliased(Outbox)
    waits = select(earlier.id).where(
        earlier.job_id == Outbox.job_id,
        earlier.id < Outbox.id,
        earlier.delivered_at.is_(None),
        earlier.tries < MAX_TRIES,
    )
    with sessions() as session:
        due = session.scalars(
            select(Outbox)
            .where(
                Outbox.delivered_at.is_(None),
                Outbox.not_before <= now,
                Outbox.tries < MAX_TRIES,
                ~waits.exists(),
            )
            .order_by(Outbox.id)
            .limit(limit)
        ).all()
        messages = [(row.id, row.url, row.payload, row.tries) for row in due]
    delivered = 0
    for message_id, url, payload, tries in messages:
        error: str | None = None
        final = False
        try:
            deliver(url, message_id, payload, now)
            delivered += 1
        except Transient as reason:
            error = str(reason)
        except BadRequest as reason:
            error, final = str(reason), True
        with sessions.begin() as session:
            row = session.get(Outbox, message_id)
            if row is None:
                continue
            row.tries = MAX_TRIES if final else tries + 1
            row.last_error = error
            row.delivered_at = None if error else now
            row.not_before = now + timedelta(seconds=min(3600, 2**tries * 5))
        if error:
            log.info("webhook_failed", message=message_id, error=error, tries=tries + 1)
    return delivered
