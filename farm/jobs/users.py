"""Users and their API keys. Of a key only the SHA-256 is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from farm.ids import UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class UserView:
    id: str
    name: str
    #: admin, operator or artist
    role: str


def ensure_single_user(session: Session, now: datetime) -> tuple[UserId, str | None]:
    """The farm's first user, made with a key when there is none: (user, the key in plain text if it was just made)."""
    raise NotImplementedError


def create_user(session: Session, name: str, role: str, now: datetime) -> UserId:
    """Add a user.

    Raises:
        BadRequest: no such role, or an empty name.
        Conflict: the name is taken.
    """
    raise NotImplementedError


def create_key(session: Session, user_id: str, label: str, now: datetime) -> str:
    """A new key in plain text, told only this once."""
    raise NotImplementedError


def list_keys(session: Session, user_id: str) -> list[dict[str, Any]]:
    """Keys of one user: id, prefix, label, created_at, last_used_at, revoked_at."""
    raise NotImplementedError


def revoke_key(session: Session, user_id: str, key_id: str, now: datetime) -> None:
    """End a key.

    Raises:
        NotFound: no such key of this user.
    """
    raise NotImplementedError


def find_by_key(session: Session, plain: str, now: datetime) -> UserView | None:
    """The user of a key; None for anything else."""
    raise NotImplementedError
