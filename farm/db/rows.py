"""How many rows a statement changed: what every guarded UPDATE is judged by."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult, Result


def changed(result: Result[Any]) -> int:
    """Rows that an INSERT, UPDATE or DELETE changed."""
    assert isinstance(result, CursorResult)
    return int(result.rowcount)
