"""Jobs, batches, pictures and workers as plain dicts with the field names of the API. Every query is scoped to its owner."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Row, Select, and_, func, or_, select, union_all
from sqlalchemy.orm import Session

from farm.db.models import Adapter, Attempt, Image, Job, JobEvent, Model, Worker
from farm.errors import BadRequest, NotFound
from farm.jobs.batch_views import batch_view, list_batches
from farm.jobs.fleet_views import queue_summary, worker_view, worker_views
from farm.jobs.guesses import until_first_step
from farm.jobs.image_views import delete_image, ids_of, image_view, list_images, patch_image, uses_one_of
from farm.jobs.kinds import Kind
from farm.jobs.pages import MAX_PAGE, Page, clamp, cut, decode_cursor, exactly
from farm.jobs.spec import FIELDS, storable
from farm.jobs.states import PRIORITY_NAMES, State
from farm.jobs.waiting import Told, fields, tell

__all__ = [
    "MAX_PAGE", "Page", "batch_view", "delete_image", "image_view", "job_view", "list_batches", "list_images",
    "list_jobs", "patch_image", "queue_summary", "worker_view", "worker_views",
]  # fmt: skip


def job_view(session: Session, owner_id: str, job_id: str) -> dict[str, Any]:
    """One job with everything: what was asked, where it stands, pictures, networks, timings, attempts, events.

    `images[].url` is None here: addresses are made by the caller, after this check of the owner.

    Raises:
        NotFound: no such job of this owner.
    """
    row = session.execute(job_rows().where(Job.owner_id == owner_id, Job.id == job_id)).one_or_none()
    if row is None:
        raise NotFound("no such job", "GET /api/v1/jobs lists yours", code="no_job")
    job = row[0]
    told = tell(session, [job], owner_id).get(job.id)
    view = _view(job, row[1], row[2], _images(session, [job.id]).get(job.id, []), told)
    view["clean_prompt"] = job.clean_prompt
    view["attempts"] = [
        {
            "attempt": attempt.attempt,
            "worker": name or attempt.worker_id,
            "started_at": attempt.started_at,
            "ended_at": attempt.ended_at,
            "outcome": attempt.outcome,
            "detail": attempt.detail,
            "timings": attempt.timings,
            "expected_wait": attempt.expected_wait,
            "waited": until_first_step(attempt.waited, attempt.started_at, attempt.ended_at, attempt.timings),
        }
        for attempt, name in session.execute(
            select(Attempt, Worker.name)
            .outerjoin(Worker, Worker.id == Attempt.worker_id)
            .where(Attempt.job_id == job_id)
            .order_by(Attempt.attempt)
        )
    ]
    view["events"] = [
        {
            "at": event.at,
            "transition": event.transition,
            "state": event.state,
            "attempt": event.attempt,
            "detail": event.detail,
        }
        for event in session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id))
    ]
    return view


def list_jobs(
    session: Session,
    owner_id: str,
    *,
    states: Sequence[str] = (),
    batch: str | None = None,
    model: str | None = None,
    network: str | None = None,
    worker: str | None = None,
    cursor: str = "",
    limit: int = 50,
) -> Page:
    """Jobs of one owner, newest first, as `job_view` has them without attempts and events.

    Raises:
        BadRequest: a cursor or a state that does not exist.
    """
    query = job_rows().where(Job.owner_id == owner_id)
    wanted = [Job.owner_id == owner_id]
    if unknown := [state for state in states if state not in set(State)]:
        raise BadRequest(f"unknown state {unknown[0]!r}", f"one of {', '.join(State)}", code="unknown_state")
    if not all(storable(text) for text in (batch, model, network, worker) if text):
        return Page(items=(), next_cursor=None)
    if batch:
        wanted.append(Job.batch_id == batch)
    if model:
        wanted.append(Job.model_id.in_(ids_of(session, Model, model)))
    if network:
        wanted.append(uses_one_of(ids_of(session, Adapter, network)))
    place = decode_cursor(cursor, 1)
    if place is not None:
        wanted.append(Job.id < str(place[0]))
    limit = clamp(limit)
    if worker:
        query = query.where(*wanted, or_(Worker.id == worker, Worker.name == worker))
        query = query.where(Job.state.in_(states)) if states else query
    elif each := states or (tuple(State) if batch else ()):
        query = query.where(Job.id.in_(_newest(wanted, each, limit + 1)))
    else:
        query = query.where(*wanted)
    rows = session.execute(query.order_by(Job.id.desc()).limit(limit + 1)).all()
    shown, next_cursor = cut(rows, limit, lambda row: (row[0].id,))
    told = tell(session, [row[0] for row in shown], owner_id)
    return Page(items=tuple(listed(session, shown, told)), next_cursor=next_cursor)


def listed(
    session: Session, rows: Sequence[Row[Job, Any, Any]], told: Mapping[str, Told]
) -> list[dict[str, Any]]:
    """Rows of `job_rows` as lists show them to their owner; `told` of those that wait."""
    images = _images(session, [row[0].id for row in rows])
    return [_view(row[0], row[1], row[2], images.get(row[0].id, []), told.get(row[0].id)) for row in rows]


def job_rows() -> Select[Any]:
    """Jobs with the attempt that holds or held them last, and the name of its worker."""
    return (
        select(Job, Attempt.timings, Worker.name)
        .outerjoin(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
        .outerjoin(Worker, Worker.id == func.coalesce(Job.worker_id, Attempt.worker_id))
    )


def _newest(wanted: Sequence[ColumnElement[bool]], states: Sequence[str], most: int) -> CompoundSelect[Any]:
    """Ids of the newest jobs of each state. An index has them in order for one state, not for several: a list that looked
    for the few of one state among a million of another would read all of these."""
    each = (
        select(Job.id)
        .where(*wanted, exactly(Job.state, state))
        .order_by(Job.state.desc(), Job.id.desc())
        .limit(most)
        .subquery()
        for state in states
    )
    return union_all(*(select(ids.c.id) for ids in each))


def _images(session: Session, job_ids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    if not job_ids:
        return found
    rows = session.execute(
        select(
            Image.job_id,
            Image.id,
            Image.index,
            Image.seed,
            Image.sha256,
            Image.width,
            Image.height,
            Image.starred,
            Image.media_type,
            Image.frames,
            Image.fps,
            Image.duration,
        )
        .where(Image.job_id.in_(job_ids), Image.deleted_at.is_(None))
        .order_by(Image.job_id, Image.index)
    )
    for row in rows.mappings():
        view = {name: value for name, value in row.items() if name != "job_id"}
        found.setdefault(row["job_id"], []).append({**view, "url": None})
    return found


def _view(
    job: Job,
    timings: Mapping[str, Any] | None,
    worker: str | None,
    images: list[dict[str, Any]],
    told: Told | None,
) -> dict[str, Any]:
    spec = {name: job.spec.get(name) for name in FIELDS}
    waits = job.state == State.QUEUED
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "stage": job.stage,
        "step": job.step,
        # an extraction's are its layers
        "steps": job.spec["steps"] if job.kind == Kind.RENDER else job.steps,
        "total_steps": job.steps,
        **fields(told),
        **({"waiting_because": given_to(worker)} if job.state == State.ASSIGNED else {}),
        "worker": None if waits else worker,
        "attempt": job.attempt,
        "batch": job.batch_id,
        "owner": job.owner_id,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "cancel_requested": job.cancel_requested_at is not None,
        "crash_count": job.crash_count,
        "retry_count": job.retry_count,
        "error": {"code": job.error_code, "message": job.error_message} if job.error_code else None,
        "images": images,
        "extract": job.spec.get("extract"),
        "result": job.result,
        "networks": job.networks,
        "timings": timings or {},
        "warnings": job.warnings,
        **{name: value for name, value in spec.items() if name != "steps"},
        "priority": PRIORITY_NAMES[job.priority],
        "worker_tags": job.worker_tags,
        "min_memory": job.min_memory or None,
    }


def given_to(worker: str | None) -> str:
    """Why an assigned job still waits."""
    return f"{worker or 'a worker'} has it and begins as soon as the job before it ends"
