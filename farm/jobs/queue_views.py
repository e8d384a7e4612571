"""The front of the queue in the order in which it is expected to start; of other people's jobs no words and no ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from farm.db.models import Job
from farm.jobs.forecast import Forecast
from farm.jobs.states import PRIORITY_NAMES, State
from farm.jobs.views import given_to, job_rows, listed
from farm.jobs.waiting import Told, fields, tell

#: jobs that one answer shows at most: as far as the leader sees
MOST = 1000


def queue_front(
    session: Session, viewer_id: str, forecast: Forecast | None, *, mine: bool, limit: int
) -> list[dict[str, Any]]:
    """What waits, soonest first: what workers have been given already, then as foreseen, then what is held back.

    Jobs of the viewer are as `list_jobs` has them; of others there are the fields that `_of_another` names, without ids.
    """
    limit = max(1, min(limit, MOST))
    rows = [
        *_given(session, viewer_id if mine else None, limit),
        *_waiting(session, viewer_id if mine else None, limit, forecast),
    ]
    told = tell(session, [row[0] for row in rows], viewer_id, forecast)
    own = [row for row in rows if row[0].owner_id == viewer_id]
    views: dict[str, Mapping[str, Any]] = {view["id"]: view for view in listed(session, own, told)}
    for job, worker in ((row[0], row[2]) for row in rows if row[0].owner_id != viewer_id):
        views[job.id] = _of_another(job, worker, told.get(job.id))
    found = [{**views[row[0].id], "mine": row[0].owner_id == viewer_id} for row in rows]
    # held jobs have no place among those that come: they stand last
    last = len(rows) + MOST
    return sorted(
        found,
        key=lambda job: (
            job["state"] != State.ASSIGNED,
            job["estimated_start"] is None,
            last if job["position"] is None else job["position"],
        ),
    )[:limit]


def _of_another(job: Job, worker: str | None, told: Told | None) -> dict[str, Any]:
    view = {
        "state": job.state,
        "priority": PRIORITY_NAMES[job.priority],
        "model": job.spec.get("model"),
        **fields(told),
    }
    return view | ({"waiting_because": given_to(worker)} if job.state == State.ASSIGNED else {})


def _given(session: Session, owner_id: str | None, limit: int) -> Sequence[Row[Job, Any, Any]]:
    given = _of(owner_id, job_rows().where(Job.state == State.ASSIGNED))
    return session.execute(given.order_by(Job.priority, Job.id).limit(limit)).all()


def _waiting(
    session: Session, owner_id: str | None, limit: int, forecast: Forecast | None
) -> Sequence[Row[Job, Any, Any]]:
    starts = forecast.starts if forecast else ()
    seen = [start.job_id for start in starts if owner_id in (None, start.owner_id)]
    # the forecast may be a moment old: what it lists may have begun, and newer jobs are not in it
    front = _of(owner_id, select(Job.id).where(Job.state == State.QUEUED))
    front = front.order_by(Job.priority, Job.id).limit(limit + len(seen))
    known = set(seen)
    unseen = [job_id for job_id in session.scalars(front) if job_id not in known]
    ids = [*seen[:limit], *unseen[:limit]]
    return session.execute(job_rows().where(Job.id.in_(ids), Job.state == State.QUEUED)).all()


def _of(owner_id: str | None, query: Select[Any]) -> Select[Any]:
    return query if owner_id is None else query.where(Job.owner_id == owner_id)
