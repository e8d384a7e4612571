"""Adapters and their versions: registered by content, found by name without case, shared by all users of a farm."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from farm.db.models import Adapter, AdapterVersion
from farm.errors import BadRequest, Conflict, Problem
from farm.ids import AdapterId, new_id
from farm.jobs.adapter_views import adapter_view, list_adapters, no_adapter
from farm.jobs.spec import near
from farm.lora.formats.header import Header
from farm.lora.formats.inspect import AdapterInfo

__all__ = [
    "AdapterRow", "adapter_view", "count_uses", "delete_adapter", "find", "known_names", "list_adapters", "names",
    "near_names", "patch_adapter", "register_adapter", "set_preview",
]  # fmt: skip

MAX_STRENGTH = 100.0


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
    #: None: the setting decides
    default_strength: float | None
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
    """Write an adapter whose file is in the store. A name that this owner has gets a new version; the file that it has
    already makes none.

    Raises:
        Conflict: the name is another owner's.
    """
    known = session.scalar(select(Adapter).where(Adapter.name_key == name.casefold()))
    if known is not None and known.owner_id != owner_id:
        raise Conflict(
            f"there is an adapter {known.name!r} of another user already",
            "choose another name",
            code="name_taken",
        )
    adapter = known or Adapter(
        id=new_id("lora", now),
        owner_id=owner_id,
        name=name,
        name_key=name.casefold(),
        current_version_id="",
        default_strength=info.default_strength,
        trigger_words=[],
        notes="",
        uses=0,
        created_at=now,
        deleted_at=None,
    )
    if known is None:
        session.add(adapter)
        try:
            session.flush()
        except IntegrityError:
            raise Conflict(
                f"an adapter {name!r} is being added already", "choose another name", code="name_taken"
            ) from None
    version = session.scalar(
        select(AdapterVersion).where(AdapterVersion.adapter_id == adapter.id, AdapterVersion.sha256 == sha256)
    )
    if version is None:
        version = AdapterVersion(
            id=new_id("version", now),
            adapter_id=adapter.id,
            sha256=sha256,
            size=size,
            file_name=file_name,
            type=info.type,
            base_model=info.base_model,
            scheme=info.scheme,
            info=info.as_dict(),
            tensors={key: [tensor.dtype, list(tensor.shape)] for key, tensor in header.tensors.items()},
            preview_key=None,
            created_at=now,
        )
        session.add(version)
    version.preview_key = preview_key or version.preview_key
    adapter.current_version_id = version.id
    session.flush()
    return AdapterId(adapter.id)


def find(session: Session, names: Collection[str]) -> dict[str, AdapterRow]:
    """Adapters of these names, by the name without case; unknown names are left out. One query."""
    keys = {name.casefold() for name in names}
    if not keys:
        return {}
    rows = session.execute(
        select(Adapter, AdapterVersion)
        .join(AdapterVersion, AdapterVersion.id == Adapter.current_version_id)
        .where(Adapter.name_key.in_(sorted(keys)))
    )
    return {adapter.name_key: _row(adapter, version) for adapter, version in rows}


def _row(adapter: Adapter, version: AdapterVersion) -> AdapterRow:
    own_words = version.info.get("trigger_words", ())
    return AdapterRow(
        id=adapter.id,
        name=adapter.name,
        version_id=version.id,
        sha256=version.sha256,
        size=version.size,
        file_name=version.file_name,
        type=version.type,
        base_model=version.base_model,
        default_strength=adapter.default_strength,
        trigger_words=tuple(adapter.trigger_words or own_words),
        info=version.info,
        tensors=version.tensors,
    )


def names(session: Session) -> list[str]:
    """Names of all adapters."""
    return list(
        session.scalars(select(Adapter.name).where(Adapter.deleted_at.is_(None)).order_by(Adapter.name_key))
    )


def near_names(session: Session, name: str) -> str:
    """A hint that names adapters with a similar name; empty without any."""
    return near(name, names(session))


def known_names(session: Session) -> set[str]:
    """Names without case of every adapter that there is or ever was."""
    return {name.casefold() for name in session.scalars(select(Adapter.name))}


def count_uses(session: Session, uses: Mapping[str, int]) -> None:
    """Add to the number of jobs that asked for each adapter, in one order so that submissions do not deadlock."""
    for adapter_id in sorted(uses):
        session.execute(
            update(Adapter).where(Adapter.id == adapter_id).values(uses=Adapter.uses + uses[adapter_id]),
            execution_options={"synchronize_session": False},
        )


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
    adapter = _mine(session, owner_id, adapter_id)
    if default_strength is not None:
        if not math.isfinite(default_strength) or abs(default_strength) > MAX_STRENGTH:
            raise _bad(
                "default_strength",
                f"a strength of {default_strength:g}",
                f"between -{MAX_STRENGTH:g} and {MAX_STRENGTH:g}",
            )
        adapter.default_strength = default_strength
    if trigger_words is not None:
        adapter.trigger_words = _clean(trigger_words)
    if notes is not None:
        adapter.notes = notes
    if name is not None and name != adapter.name:
        if not name.strip():
            raise _bad("name", "an empty name", "give it one")
        adapter.name, adapter.name_key = name, name.casefold()
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(
            f"there is an adapter {name!r} already", "choose another name", code="name_taken"
        ) from None
    return adapter_view(session, adapter_id)


def set_preview(session: Session, owner_id: str, adapter_id: str, preview_key: str) -> None:
    """Give the current version a preview picture.

    Raises:
        NotFound: no such adapter of this owner.
    """
    adapter = _mine(session, owner_id, adapter_id)
    session.execute(
        update(AdapterVersion)
        .where(AdapterVersion.id == adapter.current_version_id)
        .values(preview_key=preview_key)
    )


def delete_adapter(session: Session, owner_id: str, adapter_id: str, now: datetime) -> None:
    """Delete it by name; its file stays while jobs need it.

    Raises:
        NotFound: no such adapter of this owner.
    """
    adapter = _mine(session, owner_id, adapter_id)
    adapter.deleted_at = now
    # frees the name; a newline is in no name
    adapter.name_key = f"{adapter.name_key}\n{adapter.id}"
    session.flush()


def _mine(session: Session, owner_id: str, adapter_id: str) -> Adapter:
    adapter = session.scalar(
        select(Adapter).where(
            Adapter.id == adapter_id, Adapter.owner_id == owner_id, Adapter.deleted_at.is_(None)
        )
    )
    if adapter is None:
        raise no_adapter()
    return adapter


def _clean(words: Iterable[str]) -> list[str]:
    kept = (" ".join(word.split()).strip(" ,") for word in words)
    return list(dict.fromkeys(word for word in kept if word))


def _bad(field: str, found: str, wanted: str) -> BadRequest:
    problem = Problem(code="bad_value", message=f"{field}: {found}", hint=wanted, pointer=f"/{field}")
    error = BadRequest.of((problem,))
    assert isinstance(error, BadRequest)
    return error
