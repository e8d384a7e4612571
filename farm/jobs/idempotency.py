"""Requests that carry an Idempotency-Key are answered once; a repetition gets the first answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from farm.db.models import IdempotencyKey
from farm.errors import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the first request was answered."""

    status: int
    response: Mapping[str, Any]


def request_hash(method: str, path: str, body: bytes) -> str:
    """What makes two requests the same."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def recall(session: Session, owner_id: str, key: str, hash: str) -> Remembered | None:
    """The answer to this request, if it came before.

    Raises:
        Conflict: the key was used for another request.
    """
    row = session.get(IdempotencyKey, (owner_id, key))
    if row is None:
        return None
    if row.request_hash != hash:
        raise Conflict(
            "this Idempotency-Key was used for another request",
            "use a new key for a new request",
            code="key_reused",
        )
    return Remembered(status=row.status, response=row.response)


def remember(
    session: Session,
    owner_id: str,
    key: str,
    hash: str,
    status: int,
    response: Mapping[str, Any],
    now: datetime,
) -> None:
    """Keep the answer, in the transaction of what it answers.

    Raises:
        Conflict: the same request is being answered by another process at this moment; roll back and recall.
    """
    session.add(
        IdempotencyKey(
            owner_id=owner_id,
            key=key,
            request_hash=hash,
            status=status,
            response=dict(response),
            created_at=now,
        )
    )
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(
            "this request is being answered already", "send it again", code="in_progress"
        ) from None
