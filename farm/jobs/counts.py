"""Counting jobs at a bounded cost: exactly while they are few, "at least so many" when they are very many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, func, select
from sqlalchemy.orm import InstrumentedAttribute

from farm.db.models import Job

#: jobs that are counted; an index answers for so many in some hundredths of a second
COUNTED = 100_000

#: orders of `ix_jobs_waiting`, and of `ix_jobs_owner_state`, within one state
QUEUE = (Job.priority, Job.id)
OWN = (Job.id,)


def counted(*wanted: ColumnElement[bool], order: Sequence[InstrumentedAttribute[Any]]) -> ScalarSelect[Any]:
    """The number of `wanted` jobs as a part of a statement; `COUNTED` + 1 when there are more.

    `order` is that of the index to be counted in: without one, a planner whose statistics are old may read the table.
    """
    some = select(Job.id).where(*wanted).order_by(*order).limit(COUNTED + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()
