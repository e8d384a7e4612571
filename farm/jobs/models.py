"""Base models: registered by the hash of their files, found by name without case, shared by all users of a farm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from farm.ids import ModelId
from farm.models.families import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """What submission needs of a model."""

    id: str
    name: str
    family: str
    sha256: str
    configs: Mapping[str, Any]
    defaults: Mapping[str, Any]
    bytes: int


def register_model(
    session: Session,
    owner_id: str,
    *,
    name: str,
    info: ModelInfo,
    manifest: Sequence[Mapping[str, Any]],
    sha256: str,
    now: datetime,
) -> ModelId:
    """Write a model whose files are in the store; a name that this owner has gets the new files.

    Raises:
        Conflict: the name is another owner's.
    """
    raise NotImplementedError


def find(session: Session, name: str | None) -> ModelRow:
    """The model of this name; without a name the newest one.

    Raises:
        BadRequest: no such model; the hint names near ones.
    """
    raise NotImplementedError


def exists(session: Session, name: str) -> bool:
    """Whether there is, or ever was, a model of this name."""
    raise NotImplementedError


def list_models(session: Session) -> list[dict[str, Any]]:
    """All models as `model_view` has them, by name."""
    raise NotImplementedError


def model_view(session: Session, model_id: str) -> dict[str, Any]:
    """One model: id, name, family, sha256, bytes, defaults, files, created_at, hot_on.

    Raises:
        NotFound: no such model.
    """
    raise NotImplementedError


def delete_model(session: Session, owner_id: str, model_id: str, now: datetime) -> None:
    """Delete it by name; its files stay while jobs need them.

    Raises:
        NotFound: no such model of this owner.
    """
    raise NotImplementedError
