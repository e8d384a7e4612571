"""Operators stop and resume the queue, a model or a user. What already is on a worker goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session, aliased

from farm.db.models import Model, Pause, User
from farm.errors import NotFound

Kind = Literal["queue", "model", "user"]

_WORDS: Mapping[str, str] = {
    "queue": "the queue is paused by an operator",
    "model": "an operator has paused jobs with the model {}",
    "user": "an operator has paused this user's jobs",
}


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
    operator, user = aliased(User), aliased(User)
    rows = session.execute(
        select(Pause, Model.name.label("model"), user.name.label("user"), operator.name.label("operator"))
        .outerjoin(Model, (Pause.kind == "model") & (Model.id == Pause.subject))
        .outerjoin(user, (Pause.kind == "user") & (user.id == Pause.subject))
        .outerjoin(operator, operator.id == Pause.user_id)
        .order_by(Pause.kind, Pause.subject)
    )
    return [
        {
            "kind": row.Pause.kind,
            "subject": row.Pause.subject,
            "name": row.model or row.user or row.Pause.subject,
            "by": row.operator or row.Pause.user_id,
            "at": row.Pause.at,
        }
        for row in rows
    ]


def pausable(session: Session, pauses: Iterable[Mapping[str, Any]]) -> dict[Kind, list[tuple[str, str]]]:
    """Models and users that are not among `pause_views`, as (id, name)."""
    all_of: dict[Kind, Select[str, str]] = {
        "model": select(Model.id, Model.name).where(Model.deleted_at.is_(None)).order_by(Model.name),
        "user": select(User.id, User.name).order_by(User.name),
    }
    paused = {(row["kind"], row["subject"]) for row in pauses}
    return {
        kind: [(row[0], row[1]) for row in session.execute(query) if (kind, row[0]) not in paused]
        for kind, query in all_of.items()
    }


def sentence(kind: str, name: str) -> str:
    """Why a job waits that is held by such a pause.

    >>> sentence("model", "tiny")
    'an operator has paused jobs with the model tiny'
    """
    return _WORDS[kind].format(name)


def why_paused(pauses: Iterable[Mapping[str, Any]], model_id: str, owner_id: str) -> str | None:
    """The sentence of the widest of `pause_views` that holds a job of this model and owner."""
    held = {(row["kind"], row["subject"]): row["name"] for row in pauses}
    of_job = (("queue", ""), ("model", model_id), ("user", owner_id))
    return next((sentence(key[0], held[key]) for key in of_job if key in held), None)


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
