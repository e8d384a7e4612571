"""Users and their API keys. Of a key only the SHA-256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from farm.db.models import ApiKey, User
from farm.errors import BadRequest, Conflict, NotFound
from farm.ids import UserId, new_id

ROLES = ("admin", "operator", "artist")
#: how exact `last_used_at` is kept: not every request writes
_USED_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class UserView:
    id: str
    name: str
    #: admin, operator or artist
    role: str


def ensure_single_user(session: Session, now: datetime) -> tuple[UserId, str | None]:
    """The farm's first user, made with a key when there is none: (user, the key in plain text if it was just made)."""
    first = select(User.id).order_by(User.id).limit(1)
    known = session.execute(first).scalar_one_or_none()
    if known is not None:
        return UserId(known), None
    try:
        with session.begin_nested():
            user_id = create_user(session, "admin", "admin", now)
    except Conflict:
        # another process was faster by a moment
        return UserId(session.execute(first).scalar_one()), None
    return user_id, create_key(session, user_id, "first key", now)


def create_user(session: Session, name: str, role: str, now: datetime) -> UserId:
    """Add a user.

    Raises:
        BadRequest: no such role, or an empty name.
        Conflict: the name is taken.
    """
    if role not in ROLES:
        raise BadRequest(f"unknown role {role!r}", f"one of {', '.join(ROLES)}", code="unknown_role")
    if not name.strip():
        raise BadRequest("a user needs a name", code="bad_name")
    user = User(id=new_id("user", now), name=name.strip(), role=role, share_weight=1.0, created_at=now)
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(
            f"there is a user {name!r} already", "choose another name", code="name_taken"
        ) from None
    return UserId(user.id)


def create_key(session: Session, user_id: str, label: str, now: datetime) -> str:
    """A new key in plain text, told only this once."""
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(24)
    plain = f"farm_{prefix}_{secret}"
    session.add(
        ApiKey(
            id=new_id("key", now), user_id=user_id, prefix=prefix, hash=_hash(plain), label=label, created_at=now,
            last_used_at=None, revoked_at=None,
        )
    )  # fmt: skip
    session.flush()
    return plain


def list_keys(session: Session, user_id: str) -> list[dict[str, Any]]:
    """Keys of one user: id, prefix, label, created_at, last_used_at, revoked_at."""
    rows = session.scalars(select(ApiKey).where(ApiKey.user_id == user_id).order_by(ApiKey.id))
    return [
        {
            "id": row.id,
            "prefix": row.prefix,
            "label": row.label,
            "created_at": row.created_at,
            "last_used_at": row.last_used_at,
            "revoked_at": row.revoked_at,
        }
        for row in rows
    ]


def revoke_key(session: Session, user_id: str, key_id: str, now: datetime) -> None:
    """End a key; ending it again changes nothing.

    Raises:
        NotFound: no such key of this user.
    """
    row = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user_id))
    if row is None:
        raise NotFound("no such key", code="no_key")
    row.revoked_at = row.revoked_at or now
    session.flush()


def find_by_key(session: Session, plain: str, now: datetime) -> UserView | None:
    """The user of a key; None for anything else. Takes the same time for a wrong secret as for a wrong prefix."""
    parts = plain.split("_", 2)
    prefix = parts[1] if len(parts) == 3 and parts[0] == "farm" else ""
    row = session.execute(
        select(ApiKey.id, ApiKey.hash, ApiKey.last_used_at, User.id.label("user_id"), User.name, User.role)
        .join(User, User.id == ApiKey.user_id)
        .where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))
    ).one_or_none()
    if not hmac.compare_digest(_hash(plain), row.hash if row else _hash("")) or row is None:
        return None
    if row.last_used_at is None or row.last_used_at < now - timedelta(seconds=_USED_SECONDS):
        session.execute(
            update(ApiKey)
            .where(ApiKey.id == row.id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now))
            .values(last_used_at=now),
            execution_options={"synchronize_session": False},
        )
    return UserView(id=row.user_id, name=row.name, role=row.role)


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
