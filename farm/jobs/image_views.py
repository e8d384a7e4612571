"""Pictures as plain dicts: the gallery's list, one picture, stars and deletion."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String, cast, func, or_, select, update
from sqlalchemy.orm import Session

from farm.db.models import Adapter, Image, Job, Model
from farm.db.rows import changed
from farm.errors import NotFound
from farm.jobs.pages import Page, clamp, cut, decode_cursor, exactly
from farm.jobs.spec import storable
from farm.jobs.states import State


def list_images(
    session: Session,
    owner_id: str,
    *,
    job: str | None = None,
    batch: str | None = None,
    network: str | None = None,
    model: str | None = None,
    starred: bool | None = None,
    search: str = "",
    cursor: str = "",
    limit: int = 50,
) -> Page:
    """Pictures of one owner that are not deleted, newest first. Every word of `search` has to stand in the prompt.

    Raises:
        BadRequest: a cursor of another list.
    """
    if not all(storable(text) for text in (job, batch, network, model, search) if text):
        return Page(items=(), next_cursor=None)
    query = select(Image, Job.batch_id).join(Job, Job.id == Image.job_id)
    query = query.where(Image.owner_id == owner_id, Image.deleted_at.is_(None))
    if job:
        query = query.where(Image.job_id == job)
    if batch:
        query = query.where(Job.batch_id == batch)
    if model:
        query = query.where(Job.model_id.in_(ids_of(session, Model, model)))
    if network:
        query = query.where(uses_one_of(ids_of(session, Adapter, network)))
    if starred is not None:
        query = query.where(Image.starred.is_(starred))
    prompt = func.lower(Job.spec["prompt"].as_string())
    for word in search.lower().split():
        query = query.where(prompt.contains(word, autoescape=True))
    place = decode_cursor(cursor, 1)
    if place is not None:
        query = query.where(Image.id < str(place[0]))
    limit = clamp(limit)
    rows = session.execute(query.order_by(Image.id.desc()).limit(limit + 1)).all()
    shown, next_cursor = cut(rows, limit, lambda row: (row[0].id,))
    return Page(items=tuple(_view(*row) for row in shown), next_cursor=next_cursor)


def pictures_of_batch(session: Session, owner_id: str, batch_id: str, *, limit: int) -> list[dict[str, Any]]:
    """Pictures of the latest jobs of a batch that have succeeded: found at the same cost however long the batch is."""
    newest = (
        select(Job.id)
        .where(Job.batch_id == batch_id, exactly(Job.state, State.SUCCEEDED))
        .order_by(Job.state.desc(), Job.id.desc())
        .limit(limit)
        .subquery()
    )
    query = (
        select(Image)
        .join(newest, newest.c.id == Image.job_id)
        .where(Image.owner_id == owner_id, Image.deleted_at.is_(None))
        .order_by(Image.job_id.desc(), Image.index)
        .limit(limit)
    )
    return [_view(image, batch_id) for image in session.scalars(query)]


def image_view(session: Session, owner_id: str, image_id: str) -> dict[str, Any]:
    """One picture with its object key and the JSON that stands in its file.

    Raises:
        NotFound: no such picture of this owner.
    """
    row = session.execute(
        select(Image, Job.batch_id)
        .join(Job, Job.id == Image.job_id)
        .where(Image.id == image_id, Image.owner_id == owner_id, Image.deleted_at.is_(None))
    ).one_or_none()
    if row is None:
        raise _no_image()
    return _view(*row)


def patch_image(session: Session, owner_id: str, image_id: str, *, starred: bool) -> dict[str, Any]:
    """Star a picture, or not.

    Raises:
        NotFound: no such picture of this owner.
    """
    _change(session, owner_id, image_id, starred=starred)
    return image_view(session, owner_id, image_id)


def delete_image(session: Session, owner_id: str, image_id: str) -> None:
    """Take a picture out of all lists; its object stays until it is swept.

    Raises:
        NotFound: no such picture of this owner.
    """
    _change(session, owner_id, image_id, deleted_at=func.now())


def ids_of(session: Session, table: type[Model] | type[Adapter], name: str) -> list[str]:
    """Ids of the models or adapters that have or had this name, or this id."""
    wanted = name.casefold()
    rows = session.execute(select(table.id, table.name))
    return [row.id for row in rows if row.id == name or row.name.casefold() == wanted]


def uses_one_of(adapter_ids: list[str]) -> Any:
    """Whether a job uses one of these adapters."""
    text = cast(Job.networks, String)
    return or_(False, *(text.contains(f'"{adapter_id}"') for adapter_id in adapter_ids))


def _change(session: Session, owner_id: str, image_id: str, **values: Any) -> None:
    done = session.execute(
        update(Image)
        .where(Image.id == image_id, Image.owner_id == owner_id, Image.deleted_at.is_(None))
        .values(**values)
    )
    if changed(done) != 1:
        raise _no_image()


def _no_image() -> NotFound:
    return NotFound("no such picture", "GET /api/v1/images lists yours", code="no_image")


def _view(image: Image, batch_id: str | None) -> dict[str, Any]:
    return {
        "id": image.id,
        "job": image.job_id,
        "batch": batch_id,
        "index": image.index,
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "sha256": image.sha256,
        "size": image.size,
        "media_type": image.media_type,
        "frames": image.frames,
        "fps": image.fps,
        "duration": image.duration,
        "starred": image.starred,
        "created_at": image.created_at,
        "object_key": image.object_key,
        "poster_key": image.poster_key,
        "info": image.info,
    }
