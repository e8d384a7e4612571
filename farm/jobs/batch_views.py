"""Batches as plain dicts, with how far they have come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Batch, Job
from farm.errors import NotFound
from farm.jobs.pages import MAX_PAGE, Page, clamp, cut, decode_cursor, exactly
from farm.jobs.spec import FIELDS
from farm.jobs.states import TERMINAL, State
from farm.jobs.tallies import of_batches
from farm.jobs.waiting import Told, tell


def batch_view(session: Session, owner_id: str, batch_id: str) -> dict[str, Any]:
    """A batch and its jobs by state.

    Raises:
        NotFound: no such batch of this owner.
    """
    batch = session.scalar(select(Batch).where(Batch.id == batch_id, Batch.owner_id == owner_id))
    if batch is None:
        raise NotFound("no such batch", "GET /api/v1/batches lists yours", code="no_batch")
    return _view(batch, of_batches(session, [batch_id]).get(batch_id, {}))


def list_batches(session: Session, owner_id: str, *, cursor: str = "", limit: int = 50) -> Page:
    """Batches of one owner with their counts, newest first.

    Raises:
        BadRequest: a cursor of another list.
    """
    query = select(Batch).where(Batch.owner_id == owner_id)
    place = decode_cursor(cursor, 1)
    if place is not None:
        query = query.where(Batch.id < str(place[0]))
    limit = clamp(limit)
    rows = session.scalars(query.order_by(Batch.id.desc()).limit(limit + 1)).all()
    shown, next_cursor = cut(rows, limit, lambda row: (row.id,))
    counts = of_batches(session, [batch.id for batch in shown])
    return Page(
        items=tuple(_view(batch, counts.get(batch.id, {})) for batch in shown), next_cursor=next_cursor
    )


def last_start(session: Session, batch_id: str, viewer_id: str) -> Told | None:
    """What is told of the waiting job of a batch that is expected to start last; None when none waits."""
    waits = select(Job).where(Job.batch_id == batch_id, exactly(Job.state, State.QUEUED))
    job = session.scalars(waits.order_by(Job.state.desc(), Job.id.desc()).limit(1)).first()
    return tell(session, [job], viewer_id)[job.id] if job else None


def failed_rows(session: Session, owner_id: str, batch_id: str) -> Iterator[dict[str, Any]]:
    """Rows of a batch that failed, in the order of the batch: `row` (from 0), `id`, `error` (code, message), and the job
    itself. They are read a page at a time."""
    last = ""
    while True:
        rows = session.execute(
            select(Job.id, Job.batch_index, Job.error_code, Job.error_message, Job.spec)
            .where(
                Job.owner_id == owner_id,
                Job.batch_id == batch_id,
                Job.state == State.FAILED,
                Job.id > last,
            )
            .order_by(Job.id)
            .limit(MAX_PAGE)
        ).all()
        for row in rows:
            error = {"code": row.error_code, "message": row.error_message}
            job = {name: row.spec.get(name) for name in FIELDS}
            yield {"row": row.batch_index, "id": row.id, "error": error, "job": job}
        if len(rows) < MAX_PAGE:
            return
        last = rows[-1].id


def _view(batch: Batch, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "id": batch.id,
        "name": batch.name,
        "owner": batch.owner_id,
        "total": batch.total,
        "states": {str(state): counts.get(state, 0) for state in State},
        "done": sum(counts.get(state, 0) for state in TERMINAL),
        "created_at": batch.created_at,
        "cancel_requested_at": batch.cancel_requested_at,
    }
