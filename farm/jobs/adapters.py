"""Adapters and their versions: registered by content, found by name without case, shared by all users of a farm."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from farm.ids import AdapterId
from farm.jobs.views import Page
from farm.lora.formats.header import Header
from farm.lora.formats.inspect import AdapterInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRow:
    """An adapter with its current version."""

    id: str
    name: str
    version_id: str
    sha256: str
    size: int
    file_name: str
    type: str
    base_model: str
    default_strength: float
    trigger_words: tuple[str, ...]
    info: Mapping[str, Any]
    #: {key: [dtype, shape]}
    tensors: Mapping[str, Any]


def register_adapter(
    session: Session,
    owner_id: str,
    *,
    name: str,
    file_name: str,
    sha256: str,
    size: int,
    header: Header,
    info: AdapterInfo,
    now: datetime,
    preview_key: str | None = None,
) -> AdapterId:
    """Write an adapter whose file is in the store; a name that this owner has gets a new version.

    Raises:
        Conflict: the name is another owner's.
    """
    raise NotImplementedError


def find(session: Session, names: Collection[str]) -> dict[str, AdapterRow]:
    """Adapters of these names, by the name without case; unknown names are left out. One query."""
    raise NotImplementedError


def near_names(session: Session, name: str) -> str:
    """A hint that names adapters with a similar name; empty without any."""
    raise NotImplementedError


def known_names(session: Session) -> set[str]:
    """Names without case of every adapter that there is or ever was."""
    raise NotImplementedError


def list_adapters(
    session: Session,
    *,
    search: str = "",
    base: Sequence[str] = (),
    type: Sequence[str] = (),
    sort: str = "name",
    cursor: str = "",
    limit: int = 50,
) -> Page:
    """Adapters as `adapter_view` has them; `sort` is name, newest, size or uses."""
    raise NotImplementedError


def adapter_view(session: Session, adapter_id: str) -> dict[str, Any]:
    """One adapter: id, name, sha256, size, file_name, type, base_model, …, trigger_words, default_strength, notes, uses,
    versions, hot_on.

    Raises:
        NotFound: no such adapter.
    """
    raise NotImplementedError


def patch_adapter(
    session: Session,
    owner_id: str,
    adapter_id: str,
    *,
    name: str | None = None,
    trigger_words: Sequence[str] | None = None,
    default_strength: float | None = None,
    notes: str | None = None,
    now: datetime,
) -> dict[str, Any]:
    """Change what is given; what is None stays. Jobs that are queued keep the file they were submitted with.

    Raises:
        NotFound: no such adapter of this owner.
        Conflict: the new name is taken.
        BadRequest: a value is out of bounds.
    """
    raise NotImplementedError


def set_preview(session: Session, owner_id: str, adapter_id: str, preview_key: str) -> None:
    """Give the current version a preview picture.

    Raises:
        NotFound: no such adapter of this owner.
    """
    raise NotImplementedError


def delete_adapter(session: Session, owner_id: str, adapter_id: str, now: datetime) -> None:
    """Delete it by name; its file stays while jobs need it.

    Raises:
        NotFound: no such adapter of this owner.
    """
    raise NotImplementedError
