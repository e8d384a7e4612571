"""Requests that carry an Idempotency-Key are answered once; a repetition gets the first answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What the first request was answered."""

    status: int
    response: Mapping[str, Any]


def request_hash(method: str, path: str, body: bytes) -> str:
    """What makes two requests the same."""
    raise NotImplementedError


def recall(session: Session, owner_id: str, key: str, hash: str) -> Remembered | None:
    """The answer to this request, if it came before.

    Raises:
        Conflict: the key was used for another request.
    """
    raise NotImplementedError


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
    raise NotImplementedError
