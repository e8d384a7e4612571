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
#: most jobs of a limit
MAX_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UserView:
    id: str
    name: str
    #: admin, operator or artist
    role: str
    #: id of the key that was shown, if it has a limit of running jobs
    limited_key: str | None = None


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


def create_user(
    session: Session,
    name: str,
    role: str,
    now: datetime,
    *,
    share_weight: float = 1.0,
    running_limit: int | None = None,
) -> UserId:
    """Add a user. `running_limit`: jobs on workers at once; 0 for no limit, None for the setting's.

    Raises:
        BadRequest: no such role, an empty name, a weight or limit that is none.
        Conflict: the name is taken.
    """
    _check(share_weight, running_limit)
    if role not in ROLES:
        raise BadRequest(f"unknown role {role!r}", f"one of {', '.join(ROLES)}", code="unknown_role")
    if not name.strip():
        raise BadRequest("a user needs a name", code="bad_name")
    user = User(
        id=new_id("user", now), name=name.strip(), role=role, share_weight=share_weight, running_limit=running_limit,
        created_at=now,
    )  # fmt: skip
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(
            f"there is a user {name!r} already", "choose another name", code="name_taken"
        ) from None
    return UserId(user.id)


def set_user(session: Session, id_or_name: str, **values: Any) -> dict[str, Any]:
    """Change a user's `share_weight` or `running_limit`; what is not given stays. Returns the user's view.

    Raises:
        BadRequest: a weight or limit that is none.
        NotFound: no such user.
    """
    user = session.scalars(
        select(User).where((User.id == id_or_name) | (User.name == id_or_name)).limit(1)
    ).first()
    if user is None:
        raise NotFound(f"no user '{id_or_name}'", "give a name or id", code="no_user")
    _check(values.get("share_weight", 1.0), values.get("running_limit"))
    for name in ("share_weight", "running_limit"):
        if name in values:
            setattr(user, name, values[name])
    session.flush()
    return _user(user)


def list_users(session: Session) -> list[dict[str, Any]]:
    """All users, by name: id, name, role, share_weight, running_limit, created_at."""
    return [_user(row) for row in session.scalars(select(User).order_by(User.name))]


def _user(row: User) -> dict[str, Any]:
    return {
        name: getattr(row, name)
        for name in ("id", "name", "role", "share_weight", "running_limit", "created_at")
    }


def _check(share_weight: float, running_limit: int | None, least: int = 0) -> None:
    if not 0.01 <= share_weight <= 100:
        raise BadRequest(
            f"{share_weight:g} is no weight of a share", "give 0.01 to 100; others have 1", code="bad_weight"
        )
    if running_limit is not None and not least <= running_limit <= MAX_LIMIT:
        raise BadRequest(
            f"{running_limit} is no limit of running jobs", f"give {least} to {MAX_LIMIT}", code="bad_limit"
        )


def create_key(
    session: Session, user_id: str, label: str, now: datetime, *, running_limit: int | None = None
) -> str:
    """A new key in plain text, told only this once. `running_limit`: jobs sent with it that may be on workers at once.

    Raises:
        BadRequest: a limit that is none.
    """
    _check(1.0, running_limit, least=1)
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(24)
    plain = f"farm_{prefix}_{secret}"
    session.add(
        ApiKey(
            id=new_id("key", now), user_id=user_id, prefix=prefix, hash=_hash(plain), label=label, created_at=now,
            running_limit=running_limit, last_used_at=None, revoked_at=None,
        )
    )  # fmt: skip
    session.flush()
    return plain


def list_keys(session: Session, user_id: str) -> list[dict[str, Any]]:
    """Keys of one user: id, prefix, label, running_limit, created_at, last_used_at, revoked_at."""
    rows = session.scalars(select(ApiKey).where(ApiKey.user_id == user_id).order_by(ApiKey.id))
    return [
        {
            "id": row.id,
            "prefix": row.prefix,
            "label": row.label,
            "running_limit": row.running_limit,
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
        select(
            ApiKey.id,
            ApiKey.hash,
            ApiKey.last_used_at,
            ApiKey.running_limit,
            User.id.label("user_id"),
            User.name,
            User.role,
        )
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
    limited = None if row.running_limit is None else row.id
    return UserView(id=row.user_id, name=row.name, role=row.role, limited_key=limited)


def _hash(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
