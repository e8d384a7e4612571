"""Everything that a worker does to the world outside its process, as one value that the stages are given.

Each field is one effect: a transaction, a transfer, a step of the device. The stages call nothing else, so what happens
before and after each effect can be told, and a worker can be built with effects of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from farm.clock import Clock
from farm.jobs import attempts, resuming, workers
from farm.jobs import made as recording
from farm.jobs.attempts import Beat, HandedBack, HeartbeatAnswer, NewImage
from farm.jobs.loading import JobForWorker, load_for_worker
from farm.jobs.made import NewAdapter
from farm.jobs.reports import WorkerReport
from farm.jobs.workers import WorkerOrders
from farm.lora.layout import Layout
from farm.lora.tensors import Adapter
from farm.models.load import LoadedModel
from farm.models.machines import Machine, State
from farm.queue.events import Event
from farm.store import keys
from farm.store.s3 import Store
from farm.worker.held import HeldJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """The effects of one worker. Those that end an attempt answer False when somebody else was first."""

    # SQL
    #: begin a job that was assigned to this worker
    claim: Callable[[str, int], bool]
    read_job: Callable[[str], JobForWorker]
    #: report, and count on the leases of what is held
    beat: Callable[[WorkerReport, Sequence[Beat]], tuple[WorkerOrders, HeartbeatAnswer]]
    #: (job, attempt) of what waits for this worker
    assigned: Callable[[], list[tuple[str, int]]]
    succeed: Callable[[HeldJob, Sequence[NewImage], Sequence[str]], bool]
    #: with the adapter that it made, and how near it is
    succeed_with_adapter: Callable[[HeldJob, NewAdapter, Mapping[str, Any], Sequence[str]], bool]
    #: with a code and a sentence for a person
    fail: Callable[[HeldJob, str, str], bool]
    retry_later: Callable[[HeldJob, str, str], bool]
    hand_back: Callable[[HeldJob, HandedBack], bool]
    #: tell the job of its checkpoint: key, hash, steps done
    note_checkpoint: Callable[[HeldJob, str, str, int], bool]
    #: tell the job's history that it was gone on with: steps done, in words
    resumed: Callable[[HeldJob, int, str], bool]
    cancelled: Callable[[HeldJob], bool]
    #: leave the fleet; whatever is still held is queued again
    leave: Callable[[], None]
    # the store
    #: write the file with this hash to the path
    fetch: Callable[[str, Path], None]
    #: bytes of the file with this hash, from a position on, at most so many
    fetch_part: Callable[[str, int, int], bytes]
    #: write a file of this media type, make sure that it is there, return its hash
    upload: Callable[[str, bytes, str], str]
    #: the content of an object
    read: Callable[[str], bytes]
    discard: Callable[[str], None]
    #: keep a file under its hash, unless it is there already
    keep: Callable[[str, Path], None]
    # the device
    load_model: Callable[[Path], LoadedModel]
    load_adapter: Callable[[Path, Layout, str, str], Adapter]
    step: Callable[[Machine, Sequence[State]], None]
    # Redis: hints, never the truth
    tell: Callable[[Event], object]
    show_preview: Callable[[str, bytes], object]
    #: wake the schedulers
    ring: Callable[[], object]


def sql_effects(sessions: sessionmaker[Session], worker_id: str, clock: Clock) -> Mapping[str, Any]:
    """The SQL half of `Effects`: each one transaction."""

    def claim(job_id: str, attempt: int) -> bool:
        with sessions.begin() as session:
            return attempts.claim(session, job_id, attempt, worker_id, clock.now())

    def read_job(job_id: str) -> JobForWorker:
        with sessions() as session:
            return load_for_worker(session, job_id)

    def beat(report: WorkerReport, items: Sequence[Beat]) -> tuple[WorkerOrders, HeartbeatAnswer]:
        with sessions.begin() as session:
            orders = workers.beat(session, worker_id, report, clock.now())
            return orders, attempts.heartbeat(session, worker_id, items)

    def assigned() -> list[tuple[str, int]]:
        with sessions() as session:
            return attempts.assigned_to(session, worker_id)

    def succeed(held: HeldJob, images: Sequence[NewImage], warnings: Sequence[str]) -> bool:
        timings = held.timings.as_dict()
        with sessions.begin() as session:
            return attempts.succeed(
                session, held.id, held.attempt, images, timings, clock.now(), warnings=warnings
            )

    def succeed_with_adapter(
        held: HeldJob, made: NewAdapter, report: Mapping[str, Any], warnings: Sequence[str]
    ) -> bool:
        timings = held.timings.as_dict()
        with sessions.begin() as session:
            return recording.succeed_with_adapter(
                session, held.id, held.attempt, made, report, timings, clock.now(), warnings=warnings
            )

    def fail(held: HeldJob, code: str, message: str) -> bool:
        timings = held.timings.as_dict()
        with sessions.begin() as session:
            return attempts.fail(session, held.id, held.attempt, code, message, clock.now(), timings=timings)

    def retry_later(held: HeldJob, code: str, message: str) -> bool:
        timings = held.timings.as_dict()
        with sessions.begin() as session:
            return attempts.retry_later(
                session, held.id, held.attempt, code, message, clock.now(), timings=timings
            )

    def hand_back(held: HeldJob, outcome: HandedBack) -> bool:
        timings = held.timings.as_dict()
        with sessions.begin() as session:
            return attempts.hand_back(
                session, held.id, held.attempt, clock.now(), outcome=outcome, timings=timings
            )

    def note_checkpoint(held: HeldJob, key: str, sha256: str, step: int) -> bool:
        with sessions.begin() as session:
            return resuming.note_checkpoint(session, held.id, held.attempt, key, sha256, step)

    def resumed(held: HeldJob, step: int, words: str) -> bool:
        with sessions.begin() as session:
            return resuming.resumed(session, held.id, held.attempt, step, words, clock.now())

    def cancelled(held: HeldJob) -> bool:
        timings = held.timings.as_dict()
        with sessions.begin() as session:
            return attempts.cancelled(session, held.id, held.attempt, clock.now(), timings=timings)

    def leave() -> None:
        with sessions.begin() as session:
            workers.leave(session, worker_id, clock.now())

    return {
        "claim": claim, "read_job": read_job, "beat": beat, "assigned": assigned, "succeed": succeed,
        "succeed_with_adapter": succeed_with_adapter, "fail": fail,
        "retry_later": retry_later, "hand_back": hand_back, "cancelled": cancelled, "leave": leave,
        "note_checkpoint": note_checkpoint, "resumed": resumed,
    }  # fmt: skip


def store_effects(store: Store) -> Mapping[str, Any]:
    """The store's half of `Effects`."""

    def fetch(sha256: str, path: Path) -> None:
        store.download(keys.blob(sha256), path)

    def fetch_part(sha256: str, start: int, length: int) -> bytes:
        return store.get_range(keys.blob(sha256), start, length)

    def upload(key: str, data: bytes, media_type: str) -> str:
        sha256 = store.put_bytes(key, data, media_type)
        store.verify(key, size=len(data), sha256=sha256)
        return sha256

    def keep(sha256: str, path: Path) -> None:
        key, size = keys.blob(sha256), path.stat().st_size
        if store.size(key) != size:
            store.put_file(key, path)
            store.verify(key, size=size, sha256=sha256)

    return {
        "fetch": fetch, "fetch_part": fetch_part, "upload": upload, "keep": keep, "read": store.get_bytes, "discard": store.delete,
    }  # fmt: skip
