"""What must be true of any farm once its jobs have ended, whatever was done to it: read from its tables and its store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Attempt, Image, Job, JobEvent, Outbox
from farm.jobs.states import TERMINAL, TRANSITIONS, State
from farm.store import keys
from farm.store.s3 import Store
from farm.store.sweep import sweep_results


def check_history(
    sessions: sessionmaker[Session], store: Store, accepted: Collection[str], cache: Path | None = None
) -> None:
    """Nothing lost, nothing doubled, nothing half; raises AssertionError naming the job.

    Args:
        accepted: ids of all jobs that were ever accepted in this database.
        cache: folder of the workers' disk cache, to be looked through as well.
    """
    with sessions() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        events: dict[str, list[JobEvent]] = {job_id: [] for job_id in jobs}
        for event in session.scalars(select(JobEvent).order_by(JobEvent.id)):
            events[event.job_id].append(event)
        images: dict[str, list[Image]] = {job_id: [] for job_id in jobs}
        for image in session.scalars(select(Image).order_by(Image.index)):
            images[image.job_id].append(image)
        outbox = session.scalars(select(Outbox)).all()
        unended = set(session.scalars(select(Attempt.job_id).where(Attempt.ended_at.is_(None))))

    # 1: what was accepted is there, once, and has ended
    assert set(jobs) == set(accepted)
    for job in jobs.values():
        assert State(job.state) in TERMINAL, f"{job.id} is {job.state}: {_told(events[job.id])}"
        # 3: what happened is a path through the table of transitions
        _follow(job, events[job.id])
        # 2: one result of what succeeded, none of anything else
        _result(job, images[job.id], store)
    assert not unended, f"attempts without an end: {unended}"
    # 4: one webhook for every end
    ends = Counter(
        (event.job_id, event.state)
        for rows in events.values()
        for event in rows
        if State(event.state) in TERMINAL and jobs[event.job_id].webhook
    )
    assert Counter((row.job_id, row.payload["data"]["state"]) for row in outbox) == ends
    # 5: nothing lies about
    _nothing_left(jobs, images, store)
    if cache is not None:
        check_cache(cache)


def _follow(job: Job, events: Sequence[JobEvent]) -> None:
    state, attempt, claimed = State.QUEUED, 0, set[int]()
    for event in events:
        told = f"{job.id}: {event.transition} in {_told(events)}"
        if event.transition == "submit":
            continue
        assert state in TRANSITIONS[event.transition].sources, told
        assert State(event.state) in TRANSITIONS[event.transition].targets, told
        assert event.attempt == attempt + (event.transition == "assign"), told
        if event.transition == "claim":
            assert event.attempt not in claimed, told
            claimed.add(event.attempt)
        state, attempt = State(event.state), event.attempt
    assert (state, attempt) == (job.state, job.attempt), f"{job.id}: {_told(events)}"


def _told(events: Sequence[JobEvent]) -> str:
    return " ".join(f"{event.transition}:{event.attempt}" for event in events)


def _result(job: Job, images: Sequence[Image], store: Store) -> None:
    if job.state != State.SUCCEEDED:
        assert not images, f"{job.id} is {job.state} and has pictures"
        assert job.result_attempt is None, job.id
        return
    assert [image.index for image in images] == list(range(job.spec["count"])), job.id
    for image in images:
        key = keys.parse_result(image.object_key)
        assert key is not None, image.object_key
        assert (key.job_id, key.attempt) == (job.id, job.result_attempt), image.object_key
        data = store.get_bytes(image.object_key)
        assert len(data) == image.size, image.object_key
        assert hashlib.sha256(data).hexdigest() == image.sha256, image.object_key


def _nothing_left(jobs: Mapping[str, Job], images: Mapping[str, Sequence[Image]], store: Store) -> None:
    """After a sweep exactly the objects of results are there."""
    results = {job.id: job.result_attempt for job in jobs.values() if job.result_attempt is not None}
    sweep_results(
        store, lambda ids: {i: results[i] for i in ids if i in results}, datetime.now(UTC) + timedelta(days=2)
    )
    kept = {item.key for item in store.list_objects(keys.RESULTS)}
    named = {image.object_key for rows in images.values() for image in rows}
    assert kept == named, f"objects without a row, or rows without an object: {kept ^ named}"


def check_cache(folder: Path) -> None:
    """Every file that a worker's disk cache shows holds what its name says."""
    for path in (folder / "blobs").glob("*/*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, f"{path} is not what its name says"
