"""Every change of a held job: one guarded UPDATE, its event in the same transaction, the caller commits.

Functions that return bool say whether this caller won; False means that another attempt, or the owner, decides now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from farm.jobs.spec import JobSpec
from farm.jobs.prepare import Network

#: (job, attempt, stage, step)
Beat = tuple[str, int, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer:
    #: jobs that this worker holds no longer: drop them at the next step
    lost: frozenset[str]
    #: jobs whose owner asked for a cancel
    cancel: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """A picture whose object is in the store already."""

    #: from 0
    index: int
    seed: int
    width: int
    height: int
    object_key: str
    sha256: str
    size: int
    #: the JSON that also stands in the file
    info: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The base model of a job, as a worker needs it."""

    id: str
    #: what jobs and reports call it: the hash of its manifest
    key: str
    name: str
    family: str
    #: [{"path", "sha256", "size"}]
    manifest: tuple[Mapping[str, Any], ...]
    configs: Mapping[str, Any]
    defaults: Mapping[str, Any]
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobForWorker:
    """A job with all that is needed to render it."""

    id: str
    attempt: int
    owner_id: str
    state: str
    worker_id: str | None
    #: normalised: no None but for `webhook`
    spec: JobSpec
    #: the prompt without tags, with trigger words
    clean_prompt: str
    networks: tuple[Network, ...]
    warnings: tuple[str, ...]
    model: ModelFiles
    batch_key: str
    network_set: str
    priority: int
    created_at: datetime
    cancel_requested: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each picture."""
        raise NotImplementedError


def load_for_worker(session: Session, job_id: str) -> JobForWorker:
    """The job as it stands now.

    Raises:
        NotFound: no such job.
    """
    raise NotImplementedError


def assigned_to(session: Session, worker_id: str) -> list[tuple[str, int]]:
    """(job, attempt) of what waits for this worker, oldest first: what it looks at when Redis is deaf."""
    raise NotImplementedError


def claim(session: Session, job_id: str, attempt: int, worker_id: str, now: datetime) -> bool:
    """Begin a job that was assigned to this worker."""
    raise NotImplementedError


def heartbeat(session: Session, worker_id: str, items: Sequence[Beat]) -> HeartbeatAnswer:
    """Count on the leases of all jobs that a worker runs, in one statement."""
    raise NotImplementedError


def succeed(
    session: Session,
    job_id: str,
    attempt: int,
    images: Sequence[NewImage],
    timings: Mapping[str, Any],
    now: datetime,
    *,
    warnings: Sequence[str] = (),
) -> bool:
    """Record the pictures and end the job. True also when this attempt has recorded it before, so after a commit of
    unknown outcome it is called again. False: the objects belong to nobody."""
    raise NotImplementedError


def fail(
    session: Session,
    job_id: str,
    attempt: int,
    code: str,
    message: str,
    now: datetime,
    *,
    timings: Mapping[str, Any] | None = None,
) -> bool:
    """End a job with a reason that a retry does not cure."""
    raise NotImplementedError


def retry_later(
    session: Session,
    job_id: str,
    attempt: int,
    code: str,
    message: str,
    now: datetime,
    *,
    timings: Mapping[str, Any] | None = None,
    most: int = 5,
) -> bool:
    """Queue a job again after a passing trouble, with a pause that doubles; after `most` of them it fails."""
    raise NotImplementedError


def hand_back(
    session: Session, job_id: str, attempt: int, now: datetime, *, timings: Mapping[str, Any] | None = None
) -> bool:
    """Queue a held job again because its worker stops in good order; counts neither as crash nor as retry."""
    raise NotImplementedError


def cancelled(
    session: Session, job_id: str, attempt: int, now: datetime, *, timings: Mapping[str, Any] | None = None
) -> bool:
    """End a running job whose owner asked for it."""
    raise NotImplementedError


def assign(
    session: Session, job_id: str, attempt_seen: int, worker_id: str, now: datetime, *, epoch: int
) -> bool:
    """Give a waiting job to a worker, as attempt `attempt_seen + 1`; only while `epoch` leads."""
    raise NotImplementedError


def note_send(session: Session, job_id: str, attempt: int) -> bool:
    """Count a message that is about to be sent again; False when the job is not assigned any more."""
    raise NotImplementedError


def unassign(session: Session, job_id: str, attempt: int, now: datetime, *, epoch: int | None = None) -> bool:
    """Take back a job that its worker did not claim; counts as nothing."""
    raise NotImplementedError


def lose(
    session: Session,
    job_id: str,
    attempt: int,
    hb_seq_seen: int,
    *,
    crash_limit: int,
    now: datetime,
    epoch: int | None = None,
) -> bool:
    """Queue a job again whose heartbeat stood still at `hb_seq_seen`; at the crash limit it fails as quarantined."""
    raise NotImplementedError


def note_waiting(session: Session, rows: Sequence[tuple[str, str, datetime | None]]) -> None:
    """Keep (job, why it waits, when it is expected to start) for people."""
    raise NotImplementedError
