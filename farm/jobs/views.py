"""Jobs, batches, pictures and workers as plain dicts with the field names of the API. Every query is scoped to its owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

MAX_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Part of a list, newest first; `next_cursor` is None on the last page."""

    items: tuple[dict[str, Any], ...]
    next_cursor: str | None


def job_view(session: Session, owner_id: str, job_id: str) -> dict[str, Any]:
    """One job with everything: what was asked, where it stands, pictures, networks, timings, attempts, events.

    `images[].url` is None here: addresses are presigned by the caller, after this check of the owner.

    Raises:
        NotFound: no such job of this owner.
    """
    raise NotImplementedError


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
    raise NotImplementedError


def batch_view(session: Session, owner_id: str, batch_id: str) -> dict[str, Any]:
    """A batch and its counts by state.

    Raises:
        NotFound: no such batch of this owner.
    """
    raise NotImplementedError


def list_batches(session: Session, owner_id: str, *, cursor: str = "", limit: int = 50) -> Page:
    """Batches of one owner with their counts, newest first."""
    raise NotImplementedError


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
    """Pictures of one owner that are not deleted, newest first. `search` looks into prompts."""
    raise NotImplementedError


def image_view(session: Session, owner_id: str, image_id: str) -> dict[str, Any]:
    """One picture with its object key and the JSON that stands in its file.

    Raises:
        NotFound: no such picture of this owner.
    """
    raise NotImplementedError


def patch_image(session: Session, owner_id: str, image_id: str, *, starred: bool) -> dict[str, Any]:
    """Star a picture, or not.

    Raises:
        NotFound: no such picture of this owner.
    """
    raise NotImplementedError


def delete_image(session: Session, owner_id: str, image_id: str) -> None:
    """Take a picture out of all lists.

    Raises:
        NotFound: no such picture of this owner.
    """
    raise NotImplementedError


def worker_views(session: Session) -> list[dict[str, Any]]:
    """All workers, those that are up first; names of people's jobs are not in it, only ids."""
    raise NotImplementedError


def worker_view(session: Session, worker_id: str) -> dict[str, Any]:
    """One worker.

    Raises:
        NotFound: no such worker.
    """
    raise NotImplementedError


def queue_summary(session: Session, owner_id: str) -> dict[str, Any]:
    """Counts of this owner's jobs by state, of the whole queue, of workers, and seconds until the queue is empty."""
    raise NotImplementedError
