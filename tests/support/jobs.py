"""Rows for tests of what is above the database: a user, a model, workers and jobs without any file behind them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Image, Job, JobEvent, Lease, Model, User
from farm.jobs import attempts, workers
from farm.jobs.reports import WorkerReport
from farm.jobs.waiting import Told, tell

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
OWNER = "user_1"
STRANGER = "user_2"
MODEL = "model_1"
MODEL_KEY = "a" * 64
EPOCH = 1

_numbers = count(1)


def seed(sessions: sessionmaker[Session], *, model: bool = True) -> None:
    """Two users, one model (without layers, unless not wanted), and a leader of epoch `EPOCH`."""
    with sessions.begin() as session:
        for user, role in ((OWNER, "artist"), (STRANGER, "artist")):
            session.add(User(id=user, name=user, role=role, share_weight=1.0, created_at=NOW))
        session.add(Lease(name="scheduler", holder="test", epoch=EPOCH, seq=0))
    if not model:
        return
    with sessions.begin() as session:
        session.add(
            Model(
                id=MODEL, owner_id=OWNER, name="tiny", name_key="tiny", family="sd1", sha256=MODEL_KEY,
                manifest=[{"path": "unet/config.json", "sha256": "b" * 64, "size": 10}], configs={}, defaults={},
                bytes=10, created_at=NOW, deleted_at=None,
            )
        )  # fmt: skip


def add_job(sessions: sessionmaker[Session], owner: str = OWNER, **values: Any) -> str:
    """A queued job, written without being prepared."""
    job_id = values.pop("id", f"job_{next(_numbers):08}")
    spec = {
        "prompt": "a fox", "negative_prompt": "", "model": "tiny", "width": 64, "height": 64, "steps": 4,
        "guidance_scale": 7.0, "sampler": "euler", "seed": 7, "count": 1, "priority": "normal", "tags": [],
        "webhook": None, "linear_curves": False,
    }  # fmt: skip
    row: dict[str, Any] = {
        "id": job_id, "owner_id": owner, "batch_id": None, "batch_index": None, "spec": spec,
        "clean_prompt": "a fox", "networks": [], "warnings": [], "model_id": MODEL, "model_key": MODEL_KEY,
        "network_set": "", "batch_key": "k", "steps": 4, "created_at": NOW,
    } | values  # fmt: skip
    with sessions.begin() as session:
        session.add(Job(**row))
    return job_id


def add_worker(sessions: sessionmaker[Session], name: str, report: WorkerReport | None = None) -> str:
    with sessions.begin() as session:
        return workers.register(session, name, "cpu", report or WorkerReport(), NOW)


def assign(sessions: sessionmaker[Session], job_id: str, worker_id: str, now: datetime = NOW) -> int:
    """Assign a queued job; returns its attempt."""
    with sessions.begin() as session:
        seen = session.execute(select(Job.attempt).where(Job.id == job_id)).scalar_one()
        assert attempts.assign(session, job_id, seen, worker_id, now, epoch=EPOCH)
    return seen + 1


def start(sessions: sessionmaker[Session], job_id: str, worker_id: str, now: datetime = NOW) -> int:
    """Assign and claim a queued job; returns its attempt."""
    attempt = assign(sessions, job_id, worker_id, now)
    with sessions.begin() as session:
        assert attempts.claim(session, job_id, attempt, worker_id, now)
    return attempt


def new_image(index: int = 0, sha256: str = "c" * 64) -> attempts.NewImage:
    return attempts.NewImage(
        index=index, seed=7 + index, width=64, height=64, object_key=f"results/{index}.png", sha256=sha256, size=100,
        info={"prompt": "a fox"},
    )  # fmt: skip


def job_row(sessions: sessionmaker[Session], job_id: str) -> Job:
    with sessions() as session:
        job = session.get(Job, job_id)
        assert job is not None
        return job


def told_of(sessions: sessionmaker[Session], job_id: str, viewer: str | None = None) -> Told:
    """What people are told of a job that waits: its owner, unless another one looks."""
    with sessions() as session:
        job = session.get_one(Job, job_id)
        return tell(session, [job], viewer or job.owner_id)[job_id]


def events_of(sessions: sessionmaker[Session], job_id: str) -> list[str]:
    with sessions() as session:
        return list(
            session.scalars(
                select(JobEvent.transition).where(JobEvent.job_id == job_id).order_by(JobEvent.id)
            )
        )


def image_count(sessions: sessionmaker[Session], job_id: str) -> int:
    with sessions() as session:
        return len(session.scalars(select(Image.id).where(Image.job_id == job_id)).all())
