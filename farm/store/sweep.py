"""Deletes what nobody refers to: pictures and checkpoints of attempts that lost their job, uploads never completed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

import structlog

from farm.store import keys
from farm.store.s3 import Store, StoredObject

log = structlog.get_logger(__name__)

MIN_AGE = timedelta(hours=24)
_CHUNK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    seen: int
    deleted: int
    bytes: int


def sweep_results(
    store: Store,
    result_attempts: Callable[[Collection[str]], Mapping[str, int]],
    now: datetime,
    min_age: timedelta = MIN_AGE,
) -> Swept:
    """Delete pictures older than `min_age` whose attempt is not the one that became its job's result.

    Args:
        result_attempts: given job ids, the result attempt of each that has one. Asked after the objects were listed,
            so that a picture recorded meanwhile is kept.
    """
    seen = deleted = size = 0
    old = (item for item in store.list_objects(keys.RESULTS) if now - item.modified_at >= min_age)
    for items in _chunks(old, _CHUNK):
        parsed = [(item, keys.parse_result(item.key)) for item in items]
        kept = result_attempts({key.job_id for _, key in parsed if key is not None})
        for item, key in parsed:
            seen += 1
            if key is not None and kept.get(key.job_id) != key.attempt:
                store.delete(item.key)
                deleted, size = deleted + 1, size + item.size
    return _told("results", Swept(seen=seen, deleted=deleted, bytes=size))


def sweep_checkpoints(
    store: Store,
    in_use: Callable[[Collection[str]], Collection[str]],
    now: datetime,
    min_age: timedelta = MIN_AGE,
) -> Swept:
    """Delete checkpoints older than `min_age` that no job goes on from.

    Args:
        in_use: given job ids, the keys that they still name. Asked after the objects were listed.
    """
    seen = deleted = size = 0
    old = (item for item in store.list_objects(keys.CHECKPOINTS) if now - item.modified_at >= min_age)
    for items in _chunks(old, _CHUNK):
        jobs = {item.key: keys.job_of_checkpoint(item.key) for item in items}
        kept = in_use({job for job in jobs.values() if job is not None})
        for item in items:
            seen += 1
            if jobs[item.key] is not None and item.key not in kept:
                store.delete(item.key)
                deleted, size = deleted + 1, size + item.size
    return _told("checkpoints", Swept(seen=seen, deleted=deleted, bytes=size))


def sweep_uploads(store: Store, now: datetime, min_age: timedelta = MIN_AGE) -> Swept:
    """Delete uploads that were not completed within `min_age`; a completed one was copied to its place."""
    seen = deleted = size = 0
    for item in store.list_objects(keys.UPLOADS):
        seen += 1
        if now - item.modified_at >= min_age:
            store.delete(item.key)
            deleted, size = deleted + 1, size + item.size
    return _told("uploads", Swept(seen=seen, deleted=deleted, bytes=size))


def _told(what: str, swept: Swept) -> Swept:
    if swept.deleted:
        log.info("swept", what=what, deleted=swept.deleted, bytes=swept.bytes)
    return swept


def _chunks(items: Iterable[StoredObject], size: int) -> Iterator[list[StoredObject]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
