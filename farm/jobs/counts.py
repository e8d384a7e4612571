"""Counting jobs at a bounded cost: exactly while they are few, "at least so many" when they are very many."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, func, select

from farm.db.models import Job

#: jobs that are counted; an index answers for so many in some hundredths of a second
COUNTED = 200_000


def counted(*wanted: ColumnElement[bool]) -> ScalarSelect[Any]:
    """The number of `wanted` jobs as a part of a statement; `COUNTED` + 1 when there are more."""
    some = select(Job.id).where(*wanted).limit(COUNTED + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()
