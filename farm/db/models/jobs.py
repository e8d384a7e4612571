"""Jobs, their attempts, events, batches, pictures and what is to be delivered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from farm.db.models.base import Base

_HELD = text("worker_id IS NOT NULL")
_LOST = text("outcome = 'lost'")


class Batch(Base):
    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str]
    total: Mapped[int]
    created_at: Mapped[datetime]
    cancel_requested_at: Mapped[datetime | None]


class Job(Base):
    """What was asked, where it stands. Only `farm.jobs` writes `state`; every change is one guarded statement."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "state in ('queued','assigned','running','succeeded','failed','cancelled')", name="state"
        ),
        CheckConstraint("(state in ('assigned','running')) = (worker_id is not null)", name="worker"),
        CheckConstraint("(state = 'succeeded') = (result_attempt is not null)", name="result"),
        CheckConstraint("state <> 'queued' or cancel_requested_at is null", name="cancel"),
        # the scheduler's window: what waits, in order
        Index("ix_jobs_waiting", "state", "priority", "id"),
        # the front of one user's queue, or of one of its keys that has a limit
        Index("ix_jobs_owner_waiting", "owner_id", "state", "priority", "id"),
        Index("ix_jobs_owner_key_waiting", "owner_id", "key_id", "state", "priority", "id"),
        Index("ix_jobs_owner_list", "owner_id", "id"),
        Index("ix_jobs_owner_state", "owner_id", "state", "id"),
        # a batch by state: counted without the rows, listed newest first
        Index("ix_jobs_batch_list", "batch_id", "state", "id"),
        # few rows: most jobs wait or have ended, and cost nothing here
        Index("ix_jobs_worker", "worker_id", "state", postgresql_where=_HELD, sqlite_where=_HELD),
        # room for heartbeats to rewrite a row in its page
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))
    #: row of the batch, from 0
    batch_index: Mapped[int | None]

    state: Mapped[str] = mapped_column(default="queued")
    #: number of the attempt that owns the job; only grows
    attempt: Mapped[int] = mapped_column(default=0)
    worker_id: Mapped[str | None]
    #: heartbeat counter of the running attempt
    hb_seq: Mapped[int] = mapped_column(default=0)
    #: 0 interactive, 1 normal, 2 bulk
    priority: Mapped[int] = mapped_column(default=1)

    #: farm.jobs.kinds.Kind
    kind: Mapped[str] = mapped_column(default="render", server_default="render")
    #: farm.jobs.spec.JobSpec with every default filled in; of an extraction also `extract`, a farm.jobs.kinds.Extraction
    spec: Mapped[dict[str, Any]]
    #: the prompt without tags, with trigger words: what is encoded
    clean_prompt: Mapped[str]
    #: farm.jobs.prepare.Network as JSON: adapters pinned by content
    networks: Mapped[list[dict[str, Any]]]
    warnings: Mapped[list[str]]
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    model_key: Mapped[str]
    network_set: Mapped[str]
    batch_key: Mapped[str]
    #: pins: tags that its worker must have, and bytes of its device; 0: any
    worker_tags: Mapped[list[str]] = mapped_column(default=list, server_default=text("'[]'"))
    min_memory: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    #: API key that it was submitted with, if that has a limit of running jobs
    key_id: Mapped[str | None]

    #: while running: fetching, loading, patching, sampling, uploading
    stage: Mapped[str | None]
    step: Mapped[int] = mapped_column(default=0)
    steps: Mapped[int]
    #: pictures
    count: Mapped[int] = mapped_column(default=1)
    crash_count: Mapped[int] = mapped_column(default=0)
    retry_count: Mapped[int] = mapped_column(default=0)
    #: messages sent for the present assignment
    sends: Mapped[int] = mapped_column(default=0)
    #: stable code of why it failed, and a sentence for a person
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    #: why it was put off until `not_before`, in words
    wait_reason: Mapped[str | None]
    #: not written any more, since the forecast tells it: columns go once no process of the code before them runs
    estimated_start: Mapped[datetime | None]
    estimated_low: Mapped[datetime | None]
    estimated_high: Mapped[datetime | None]
    #: the first estimate and when it was made: what it is judged by afterwards
    first_estimate: Mapped[datetime | None]
    first_estimate_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    result_attempt: Mapped[int | None]
    #: object with the state of a run in the middle, its hash, and the steps that are done in it
    checkpoint_key: Mapped[str | None]
    checkpoint_sha256: Mapped[str | None]
    checkpoint_step: Mapped[int | None]
    #: the attempt that is asked to give way to a more urgent job
    preempt_attempt: Mapped[int | None]
    #: when it was last asked
    preempted_at: Mapped[datetime | None]
    #: of a job that makes no pictures: what it made, with a report
    result: Mapped[dict[str, Any] | None]
    webhook: Mapped[str | None]

    created_at: Mapped[datetime]
    assigned_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One try of a job on one worker."""

    __tablename__ = "attempts"
    __table_args__ = (
        # few rows: what was lost of late, and what a worker did last
        Index("ix_attempts_lost", "ended_at", postgresql_where=_LOST, sqlite_where=_LOST),
        Index("ix_attempts_worker", "worker_id", "started_at"),
        # the latest, by which estimates are judged
        Index("ix_attempts_started_at", "started_at"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    #: succeeded, failed, cancelled, lost, drained, preempted, blocked, transient
    outcome: Mapped[str | None]
    #: of a lost one: an outage explains it, so it counts against neither job nor worker
    pardoned: Mapped[bool] = mapped_column(default=False, server_default=false())
    detail: Mapped[str | None]
    #: seconds by stage: fetching, loading, patching, sampling, uploading; and counts: cache hits, bytes
    timings: Mapped[dict[str, Any]]
    #: of the first attempt: seconds that the job was first expected to wait from then on for its first step, and did
    #: wait for this claim
    expected_wait: Mapped[float | None]
    waited: Mapped[float | None]


class JobEvent(Base):
    """One transition of a job, written in the transition's own transaction."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    attempt: Mapped[int]
    #: name of the transition in farm.jobs.states
    transition: Mapped[str]
    state: Mapped[str]
    detail: Mapped[str | None]
    at: Mapped[datetime]


class Image(Base):
    __tablename__ = "images"
    __table_args__ = (UniqueConstraint("job_id", "index"), Index("ix_images_owner_list", "owner_id", "id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    #: picture of the job, from 0
    index: Mapped[int]
    seed: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    object_key: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int]
    #: `image/png`, or `video/webm`
    media_type: Mapped[str] = mapped_column(default="image/png", server_default=text("'image/png'"))
    frames: Mapped[int] = mapped_column(default=1, server_default=text("1"))
    #: frames a second, and seconds; None for a picture
    fps: Mapped[float | None]
    duration: Mapped[float | None]
    #: object of the still that stands for a video
    poster_key: Mapped[str | None]
    #: the JSON that also stands in the file
    info: Mapped[dict[str, Any]]
    starred: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


_DUE = text("delivered_at IS NULL")


class Outbox(Base):
    """A webhook to deliver, written with the transition that caused it."""

    __tablename__ = "outbox"
    # what is to be delivered, however much was
    __table_args__ = (Index("ix_outbox_due", "id", postgresql_where=_DUE, sqlite_where=_DUE),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    url: Mapped[str]
    payload: Mapped[dict[str, Any]]
    tries: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime] = mapped_column(index=True)
    delivered_at: Mapped[datetime | None]
    #: what the last try answered
    last_error: Mapped[str | None]
    created_at: Mapped[datetime]
