"""Cursors of lists: where the page before ended, in a form that clients hand back unread."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from farm.errors import BadRequest, Problem

MAX_PAGE = 200

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Part of a list; `next_cursor` is None on the last page."""

    items: tuple[dict[str, Any], ...]
    next_cursor: str | None


def encode_cursor(*place: Any) -> str:
    """
    >>> decode_cursor(encode_cursor("ink", "lora_1"), 2)
    ['ink', 'lora_1']
    """
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, length: int) -> list[Any] | None:
    """The place that a cursor stands for; None for the first page.

    Raises:
        BadRequest: we never gave such a cursor.
    """
    if not cursor:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        place = None
    if (
        not isinstance(place, list)
        or len(place) != length
        or not all(isinstance(x, str | int | float) for x in place)
    ):
        raise BadRequest.of(
            (
                Problem(
                    code="bad_cursor",
                    message="this cursor belongs to no list",
                    hint="use `next_cursor` of the page before, with the same filters",
                    pointer="/cursor",
                ),
            )
        )
    return place


def exactly(column: InstrumentedAttribute[str], value: str) -> ColumnElement[bool]:
    """`column` is `value`, in words that leave the column its part in an ORDER BY: only the index that has it and what
    follows in this order then answers. By "=", planners may go through a whole table by its key instead, to the first
    rows that fit."""
    return column.between(value, value)


def clamp(limit: int) -> int:
    return max(1, min(limit, MAX_PAGE))


def cut(
    rows: Sequence[Row], limit: int, place: Callable[[Row], tuple[Any, ...]]
) -> tuple[Sequence[Row], str | None]:
    """`rows` were read with one more than `limit`: the page, and the cursor of the next one if there is one."""
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(*place(rows[limit - 1]))
