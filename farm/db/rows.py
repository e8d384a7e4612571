"""How many rows a statement changed, which every guarded UPDATE is judged by; and many rows as one parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, CursorResult, FromClause, Result, String, cast, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine


def changed(result: Result[Any]) -> int:
    """Rows that an INSERT, UPDATE or DELETE changed."""
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def table_of(
    session: Session, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type[TypeEngine[Any]]]
) -> FromClause:
    """`rows` as a table that a statement can join: one parameter and one plan, however many there are."""
    text = literal(json.dumps(list(rows)), String)
    if session.get_bind().dialect.name == "sqlite":
        each = func.json_each(text).table_valued("value")
        found = [
            cast(func.json_extract(each.c.value, f"$.{name}"), kind).label(name)
            for name, kind in columns.items()
        ]
        return select(*found).select_from(each).subquery("given")
    return (
        func.jsonb_to_recordset(cast(text, JSONB))
        .table_valued(*[Column(name, kind) for name, kind in columns.items()], name="given")
        .render_derived(with_types=True)
    )
