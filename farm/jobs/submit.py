"""Jobs into rows: one, or many in one transaction, all or none. They are accepted once the caller has committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from farm.errors import Problem
from farm.ids import BatchId, JobId
from farm.jobs.limits import Limits
from farm.jobs.prepare import Network, Prepared, explain, prepare
from farm.jobs.spec import JobSpec

__all__ = ["BatchResult", "Network", "Prepared", "explain", "prepare", "submit", "submit_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of a batch: accepted as a whole, or refused as a whole."""

    #: None when it was refused, or was a dry run
    batch_id: BatchId | None
    #: rows accepted (of a dry run: rows that would be)
    accepted: int
    #: pointers `/rows/N/field`, rows counted from 0; at most `MAX_ERRORS`
    errors: tuple[Problem, ...]
    warnings: tuple[str, ...]
    #: pictures and denoising steps of all rows together
    images: int
    steps: int
    #: distinct (model, adapters) groups: each is loaded and patched once when all goes well
    groups: int


def submit(
    session: Session, owner_id: str, spec: JobSpec | Mapping[str, Any], *, limits: Limits, now: datetime
) -> JobId:
    """Prepare and write one job; it is accepted once the caller has committed.

    Raises:
        BadRequest: every problem that was found, each with its JSON pointer.
    """
    raise NotImplementedError


def submit_batch(
    session: Session,
    owner_id: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    name: str,
    limits: Limits,
    now: datetime,
    dry_run: bool = False,
) -> BatchResult:
    """Write all `rows` as jobs, or none. `rows` is read once, in order. The caller commits when `batch_id` is set."""
    raise NotImplementedError
