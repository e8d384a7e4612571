"""Operators stop and resume the queue, a model or a user. What already is on a worker goes on."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from farm.db.models import Model, Pause, User
from farm.errors import NotFound

Kind = Literal["queue", "model", "user"]


def pause(session: Session, kind: Kind, name: str, user_id: str, now: datetime) -> None:
    """Assign nothing of this kind until it is resumed; once paused it stays as it is.

    Raises:
        NotFound: no such model or user.
    """
    subject = _subject(session, kind, name)
    if session.get(Pause, (kind, subject)) is None:
        session.add(Pause(kind=kind, subject=subject, user_id=user_id, at=now))


def resume(session: Session, kind: Kind, name: str) -> None:
    """Let jobs of this kind go on.

    Raises:
        NotFound: no such model or user.
    """
    session.execute(delete(Pause).where(Pause.kind == kind, Pause.subject == _subject(session, kind, name)))


def pause_views(session: Session) -> list[dict[str, Any]]:
    """What is paused, by whom and since when."""
    operators = dict(session.execute(select(User.id, User.name)).tuples().all())
    models = dict(session.execute(select(Model.id, Model.name)).tuples().all())
    return [
        {
            "kind": row.kind,
            "name": {"model": models, "user": operators}.get(row.kind, {}).get(row.subject, row.subject),
            "by": operators.get(row.user_id, row.user_id),
            "at": row.at,
        }
        for row in session.scalars(select(Pause).order_by(Pause.kind, Pause.subject))
    ]


def _subject(session: Session, kind: Kind, name: str) -> str:
    if kind == "queue":
        return ""
    table = Model if kind == "model" else User
    found = session.scalars(
        select(table.id).where((table.id == name) | (table.name == name)).limit(1)
    ).first()
    if found is None:
        raise NotFound(f"no {kind} '{name}'", "give its name or id", code=f"no_{kind}")
    return found
