"""A worker under test with everything real around it: Redis, S3, SQLite, a tiny model; jobs are assigned by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Attempt, Image, Job, Model
from farm.jobs import ingest
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.queue.celery import make_app
from farm.queue.messages import RenderMessage, send_render
from farm.settings import Settings
from farm.store import keys
from farm.store.s3 import Store
from farm.worker.worker import Worker
from tests.support import jobs as rows
from tests.support.tiny import tiny_lora

#: a machine that does ten other things as well takes a minute for what takes seconds
WAIT_SECONDS = 120.0

#: starts a worker in this process: `start(wrap, **settings)`
Start = Callable[..., Worker]


@dataclass
class Rig:
    """Addresses and rows of one test."""

    folder: Path
    sessions: sessionmaker[Session]
    store: Store
    settings: Settings
    model_id: str
    model_key: str
    model_folder: Path
    networks: list[dict[str, Any]] = field(default_factory=list)

    def add_adapter(self, name: str, seed: int = 1, scale: float = 1.0) -> dict[str, Any]:
        """A LoRA for the tiny model in the store, and its entry for a job's `networks`."""
        path = tiny_lora(self.folder / f"{name}.safetensors", self.model_folder, seed, scale=scale)
        return self.put_adapter(name, path)

    def put_adapter(self, name: str, path: Path) -> dict[str, Any]:
        """The file in the store, and its entry for a job's `networks`."""
        sha256 = ingest.file_sha256(path)
        self.store.put_file(keys.blob(sha256), path)
        info = inspect(read_header(path), path.name)
        entry = {
            "name": name, "sha256": sha256, "size": path.stat().st_size, "file_name": path.name, "type": info.type,
            "base_model": info.base_model, "adapter_id": f"adapter_{name}", "default_strength": 1.0,
        }  # fmt: skip
        self.networks.append(entry)
        return entry

    def add_job(self, prompt: str = "a fox", clean: str = "a fox", **spec: Any) -> str:
        """A queued job for the tiny model."""
        full = {
            "prompt": prompt, "negative_prompt": "", "model": "small", "width": 64, "height": 64, "steps": 3,
            "guidance_scale": 5.0, "sampler": "euler", "seed": 7, "count": 1, "priority": "normal", "tags": [],
            "webhook": None, "linear_curves": False,
        } | spec  # fmt: skip
        used = [entry for entry in self.networks if f"<lora:{entry['name']}" in prompt]
        return rows.add_job(
            self.sessions, spec=full, clean_prompt=clean, networks=used, model_id=self.model_id,
            model_key=self.model_key, steps=full["steps"], batch_key=f"key-{full['steps']}",
        )  # fmt: skip

    def assign(self, job_id: str, worker_id: str, *, send: bool = True) -> int:
        """Assign a queued job, as the leader would, and send the message."""
        attempt = rows.assign(self.sessions, job_id, worker_id, datetime.now(UTC))
        if send:
            self.send(worker_id, job_id, attempt)
        return attempt

    def send(self, worker_id: str, job_id: str, attempt: int) -> None:
        app = make_app(self.settings.redis_url.get_secret_value())
        assert send_render(app, worker_id, RenderMessage(job=job_id, attempt=attempt))
        app.close()

    def job(self, job_id: str) -> Job:
        return rows.job_row(self.sessions, job_id)

    def attempt(self, job_id: str, attempt: int = 1) -> Attempt:
        with self.sessions() as session:
            row = session.get(Attempt, (job_id, attempt))
            assert row is not None
            return row

    def images(self, job_id: str) -> list[Image]:
        with self.sessions() as session:
            return list(session.scalars(select(Image).where(Image.job_id == job_id).order_by(Image.index)))

    def picture(self, job_id: str, index: int = 0) -> bytes:
        return self.store.get_bytes(self.images(job_id)[index].object_key)

    def wait_for(self, job_id: str, *states: str) -> Job:
        """The job once it is in one of these states."""
        self.wait_until(
            lambda: self.job(job_id).state in states, lambda: f"{job_id}: {self.job(job_id).state}"
        )
        return self.job(job_id)

    @staticmethod
    def wait_until(
        true: Callable[[], object], state: Callable[[], str] = lambda: "", seconds: float = WAIT_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"still waiting after {seconds:.0f} s: {state()}"
            time.sleep(0.02)


def make_rig(
    folder: Path, sessions: sessionmaker[Session], database_url: str, redis_url: str, store: Store,
    s3: Mapping[str, str], source: Path, cache: Path,
) -> Rig:  # fmt: skip
    """Rows of a user, a leader and the model of `source`, whose files go into the store."""
    rows.seed(sessions)
    model_id = ingest.add_model(sessions, store, rows.OWNER, source, "small", datetime.now(UTC))
    with sessions() as session:
        model = session.get(Model, model_id)
        assert model is not None
    settings = Settings(
        data_dir=folder, cache_dir=cache, database_url=database_url, redis_url=redis_url,
        s3_endpoint=s3["endpoint"], s3_access_key=s3["access_key"], s3_secret_key=s3["secret_key"],
        s3_bucket=s3["bucket"], device="cpu", worker_name="test", heartbeat_seconds=0.1, poll_seconds=30.0,
        drain_seconds=10.0, preview_every=1, torch_threads=1,
    )  # fmt: skip
    return Rig(folder, sessions, store, settings, model_id, model.sha256, source)
