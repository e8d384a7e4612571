"""Every change of a held job: one guarded UPDATE, its event in the same transaction, the caller commits.

Functions that return bool say whether this caller won; False means that another attempt, or the owner, decides now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, case, exists, insert, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from farm.db.models import Attempt, Image, Job
from farm.ids import new_ids
from farm.jobs.guesses import first_guess
from farm.jobs.leading import assign, assign_all, lose, note_first_estimates, note_send, unassign
from farm.jobs.loading import JobForWorker, ModelFiles, load_for_worker
from farm.jobs.moves import RELEASED, end_attempt, end_well, move, pause, runs, unless_cancelled
from farm.jobs.states import HELD, State

__all__ = [
    "Beat", "HeartbeatAnswer", "JobForWorker", "ModelFiles", "NewImage", "assign", "assign_all", "assigned_to", "cancelled", "claim",
    "fail", "hand_back", "heartbeat", "load_for_worker", "lose", "note_first_estimates", "note_send", "pause", "retry_later", "succeed",
    "unassign",
]  # fmt: skip

#: (job, attempt, stage, step)
Beat = tuple[str, int, str, int]

#: how an attempt ended that gave its job back
HandedBack = Literal["drained", "preempted", "blocked"]

MAX_RETRIES = 5
PNG = "image/png"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswer:
    #: jobs that this worker holds no longer: drop them at the next step
    lost: frozenset[str]
    #: jobs whose owner asked for a cancel
    cancel: frozenset[str]
    #: jobs that are to give way to a more urgent one, at the next border of steps
    give_way: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """A picture or video whose objects are in the store already."""

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
    media_type: str = PNG
    frames: int = 1
    #: frames a second; None for a picture
    fps: float | None = None
    #: object of the still that stands for a video
    poster_key: str | None = None

    @property
    def duration(self) -> float | None:
        """Seconds of a video."""
        return round(self.frames / self.fps, 3) if self.fps else None


def assigned_to(session: Session, worker_id: str) -> list[tuple[str, int]]:
    """(job, attempt) of what waits for this worker, oldest first: what it looks at when Redis is deaf."""
    rows = session.execute(
        select(Job.id, Job.attempt)
        .where(Job.worker_id == worker_id, Job.state == State.ASSIGNED)
        .order_by(Job.priority, Job.id)
    )
    return [(row.id, row.attempt) for row in rows]


def _would_meet_poison(worker_id: str) -> ColumnElement[bool]:
    """Whether the job would share its worker with one that may kill it, so that its own crashes would count for nothing.

    A job that was lost waits until nothing else runs; others wait while such a job is there, so that its turn comes.
    """
    other = aliased(Job)
    # the job itself is neither running yet nor, where that counts, lost before
    beside = select(other.id).where(other.worker_id == worker_id)
    alone = exists(beside.where(other.state == State.RUNNING))
    lost_before = exists(beside.where(other.state.in_(sorted(HELD)), other.crash_count > 0))
    return or_(and_(Job.crash_count > 0, alone), and_(Job.crash_count == 0, lost_before))


def claim(session: Session, job_id: str, attempt: int, worker_id: str, now: datetime) -> bool:
    """Begin a job that was assigned to this worker; one that was lost with its worker before has it to itself."""
    guess = first_guess(session, job_id, attempt, now)
    moved = move(
        session,
        "claim",
        (
            Job.id == job_id,
            Job.state == State.ASSIGNED,
            Job.attempt == attempt,
            Job.worker_id == worker_id,
            ~_would_meet_poison(worker_id),
        ),
        {"state": State.RUNNING, "started_at": now, "stage": "fetching", "step": 0},
        now,
        worker_id,
    )
    if moved is None:
        return False
    session.execute(
        insert(Attempt).values(
            job_id=job_id,
            attempt=attempt,
            worker_id=worker_id,
            started_at=now,
            ended_at=None,
            outcome=None,
            detail=None,
            timings={},
            **guess,
        )
    )
    return True


def heartbeat(session: Session, worker_id: str, items: Sequence[Beat]) -> HeartbeatAnswer:
    """Count on the leases of all jobs that a worker runs, in one statement."""
    if not items:
        return HeartbeatAnswer(lost=frozenset(), cancel=frozenset())
    rows = session.execute(
        update(Job)
        .where(
            Job.state == State.RUNNING,
            Job.worker_id == worker_id,
            tuple_(Job.id, Job.attempt).in_([(job_id, attempt) for job_id, attempt, _, _ in items]),
        )
        .values(
            hb_seq=Job.hb_seq + 1,
            stage=case({job_id: stage for job_id, _, stage, _ in items}, value=Job.id),
            step=case({job_id: step for job_id, _, _, step in items}, value=Job.id),
        )
        .returning(Job.id, Job.attempt, Job.cancel_requested_at, Job.preempt_attempt),
        execution_options={"synchronize_session": False},
    ).all()
    held = {row.id for row in rows}
    return HeartbeatAnswer(
        lost=frozenset(item[0] for item in items) - held,
        cancel=frozenset(row.id for row in rows if row.cancel_requested_at is not None),
        give_way=frozenset(row.id for row in rows if row.preempt_attempt == row.attempt),
    )


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
    stands, owner_id = end_well(session, job_id, attempt, timings, now, warnings=warnings)
    if owner_id is None:
        return stands
    if images:
        session.execute(
            insert(Image),
            [
                {
                    "id": image_id,
                    "owner_id": owner_id,
                    "job_id": job_id,
                    "index": image.index,
                    "seed": image.seed,
                    "width": image.width,
                    "height": image.height,
                    "object_key": image.object_key,
                    "sha256": image.sha256,
                    "size": image.size,
                    "media_type": image.media_type,
                    "frames": image.frames,
                    "fps": image.fps,
                    "duration": image.duration,
                    "poster_key": image.poster_key,
                    "info": dict(image.info),
                    "starred": False,
                    "created_at": now,
                    "deleted_at": None,
                }
                for image_id, image in zip(new_ids("img", now, len(images)), images, strict=True)
            ],
        )
    return True


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
    values = {
        "state": State.FAILED,
        "error_code": code,
        "error_message": message,
        "finished_at": now,
        "worker_id": None,
        "stage": None,
    }
    if move(session, "fail", runs(job_id, attempt), values, now, f"{code}: {message}") is None:
        return False
    end_attempt(session, job_id, attempt, "failed", now, detail=message, timings=timings)
    return True


def retry_later(
    session: Session,
    job_id: str,
    attempt: int,
    code: str,
    message: str,
    now: datetime,
    *,
    timings: Mapping[str, Any] | None = None,
    most: int = MAX_RETRIES,
) -> bool:
    """Queue a job again after a passing trouble, with a pause that doubles; after `most` of them it fails."""
    retries = session.execute(
        select(Job.retry_count).where(Job.id == job_id, Job.attempt == attempt)
    ).scalar_one_or_none()
    if retries is None:
        return False
    if retries >= most:
        return fail(
            session, job_id, attempt, code, f"{message} (after {retries} retries)", now, timings=timings
        )
    moved = move(
        session,
        "retry_later",
        # the number of retries changes with the attempt only
        runs(job_id, attempt),
        {
            **RELEASED,
            "state": unless_cancelled(State.QUEUED, State.CANCELLED),
            "finished_at": unless_cancelled(None, now),
            "retry_count": retries + 1,
            "not_before": now + pause(job_id, retries),
            "wait_reason": message,
        },
        now,
        f"{code}: {message}",
    )
    if moved is None:
        return False
    end_attempt(session, job_id, attempt, "transient", now, detail=message, timings=timings)
    return True


def hand_back(
    session: Session,
    job_id: str,
    attempt: int,
    now: datetime,
    *,
    outcome: HandedBack = "drained",
    why: str = "",
    timings: Mapping[str, Any] | None = None,
) -> bool:
    """Queue a held job again because its worker stops in good order, gives way, or has no room; counts neither as crash
    nor as retry. Its checkpoint stays."""
    moved = move(
        session,
        "hand_back",
        (Job.id == job_id, Job.state.in_(sorted(HELD)), Job.attempt == attempt),
        {
            **RELEASED,
            "state": unless_cancelled(State.QUEUED, State.CANCELLED),
            "finished_at": unless_cancelled(None, now),
        },
        now,
        "gave way to a more urgent job" if outcome == "preempted" else why or None,
    )
    if moved is None:
        return False
    end_attempt(session, job_id, attempt, outcome, now, detail=why or None, timings=timings)
    return True


def cancelled(
    session: Session, job_id: str, attempt: int, now: datetime, *, timings: Mapping[str, Any] | None = None
) -> bool:
    """End a running job whose owner asked for it."""
    moved = move(
        session,
        "cancelled",
        (*runs(job_id, attempt), Job.cancel_requested_at.is_not(None)),
        {"state": State.CANCELLED, "finished_at": now, "worker_id": None, "stage": None},
        now,
    )
    if moved is None:
        return False
    end_attempt(session, job_id, attempt, "cancelled", now, timings=timings)
    return True
