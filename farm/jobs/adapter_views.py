"""Adapters as plain dicts, and the searchable list of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from farm.db.models import Adapter, AdapterVersion, Worker
from farm.errors import BadRequest, NotFound
from farm.jobs.pages import Page, clamp, cut, decode_cursor

#: column to sort by, and whether the largest comes first
_SORTS: Mapping[str, tuple[InstrumentedAttribute[Any], bool]] = {
    "name": (Adapter.name_key, False),
    "newest": (Adapter.id, True),
    "size": (AdapterVersion.size, True),
    "uses": (Adapter.uses, True),
}


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
    """Adapters as `adapter_view` has them; `sort` is name, newest, size or uses. Every word of `search` has to stand in the
    name, the notes or the trigger words; one that begins with `-` must not.

    Raises:
        BadRequest: no such order; a cursor of another list.
    """
    if sort not in _SORTS:
        raise BadRequest(f"unknown order {sort!r}", f"one of {', '.join(_SORTS)}", code="unknown_sort")
    column, largest_first = _SORTS[sort]
    query = (
        select(Adapter, AdapterVersion)
        .join(AdapterVersion, AdapterVersion.id == Adapter.current_version_id)
        .where(Adapter.deleted_at.is_(None), *_words(search))
    )
    if base:
        query = query.where(AdapterVersion.base_model.in_(base))
    if type:
        query = query.where(AdapterVersion.type.in_(type))
    place = decode_cursor(cursor, 2)
    if place is not None:
        before, last = place
        beyond = column < before if largest_first else column > before
        query = query.where(or_(beyond, and_(column == before, Adapter.id > last)))
    limit = clamp(limit)
    rows = session.execute(
        query.order_by(column.desc() if largest_first else column, Adapter.id).limit(limit + 1)
    ).all()
    shown, next_cursor = cut(
        rows, limit, lambda row: (getattr(row[0 if column.class_ is Adapter else 1], column.key), row[0].id)
    )
    hot = hot_on(session, {version.sha256 for _, version in shown})
    return Page(
        items=tuple(_view(adapter, version, hot) for adapter, version in shown), next_cursor=next_cursor
    )


def adapter_view(session: Session, adapter_id: str) -> dict[str, Any]:
    """One adapter: id, name, sha256, size, file_name, type, base_model, …, trigger_words, default_strength, notes, uses,
    hot_on, versions.

    Raises:
        NotFound: no such adapter.
    """
    adapter = session.scalar(select(Adapter).where(Adapter.id == adapter_id, Adapter.deleted_at.is_(None)))
    if adapter is None:
        raise no_adapter()
    versions = session.scalars(
        select(AdapterVersion)
        .where(AdapterVersion.adapter_id == adapter_id)
        .order_by(AdapterVersion.id.desc())
    ).all()
    current = next(version for version in versions if version.id == adapter.current_version_id)
    view = _view(adapter, current, hot_on(session, {current.sha256}))
    view["versions"] = [
        {
            "id": version.id,
            "sha256": version.sha256,
            "size": version.size,
            "file_name": version.file_name,
            "created_at": version.created_at,
            "current": version.id == current.id,
        }
        for version in versions
    ]
    return view


def hot_on(session: Session, wanted: Collection[str]) -> dict[str, list[str]]:
    """Names of the workers that have a file in memory, by its sha256; one query."""
    found: dict[str, list[str]] = {}
    for name, report in session.execute(
        select(Worker.name, Worker.report).where(Worker.state != "gone").order_by(Worker.name)
    ):
        for sha256 in set(wanted) & set(report.get("adapters", ())):
            found.setdefault(sha256, []).append(name)
    return found


def no_adapter() -> NotFound:
    return NotFound("no such adapter", "GET /api/v1/loras lists all", code="no_adapter")


def _words(search: str) -> Iterable[ColumnElement[bool]]:
    own, typed = _as_text(AdapterVersion.info["trigger_words"]), _as_text(Adapter.trigger_words)
    text = func.lower(Adapter.name + " " + Adapter.notes + " " + typed + " " + own)
    for word in search.lower().split():
        plain = word.removeprefix("-")
        if plain:
            yield (
                ~text.contains(plain, autoescape=True)
                if word != plain
                else text.contains(plain, autoescape=True)
            )


def _as_text(column: Any) -> Any:
    return cast(column, String)


def _view(adapter: Adapter, version: AdapterVersion, hot: Mapping[str, list[str]]) -> dict[str, Any]:
    info = version.info
    return {
        "id": adapter.id,
        "name": adapter.name,
        "version": version.id,
        "sha256": version.sha256,
        "size": version.size,
        "file_name": version.file_name,
        "type": version.type,
        "types": info.get("types", []),
        "base_model": version.base_model,
        "scheme": version.scheme,
        "ranks": info.get("ranks", []),
        "alphas": info.get("alphas", []),
        "layers": info.get("layers", 0),
        "components": info.get("components", []),
        "title": info.get("title", ""),
        "description": info.get("description", ""),
        "problems": info.get("problems", []),
        "trigger_words": adapter.trigger_words or info.get("trigger_words", []),
        "default_strength": 1.0 if adapter.default_strength is None else adapter.default_strength,
        "notes": adapter.notes,
        "uses": adapter.uses,
        "owner": adapter.owner_id,
        "preview_key": version.preview_key,
        "created_at": adapter.created_at,
        "hot_on": hot.get(version.sha256, []),
    }
