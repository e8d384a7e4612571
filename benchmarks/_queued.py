"""A database with many workers at work and many jobs waiting, made by a few statements: what rounds of a large farm meet."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, cast

from sqlalchemy import Engine, Table, delete, func, insert, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Job, JobEvent, Model, User, Worker
from farm.jobs.reports import WorkerReport
from farm.jobs.states import State
from farm.scheduler.simulate.made import MODELS, make_trace
from farm.scheduler.simulate.trace import Ask, Trace

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 5000
BY_HAND = 100_000
#: adapters in a worker's memory, and files on its disk, as its report names them
MEMORY, DISK = 16, 100
SPEC = {
    "prompt": "a fox in the snow <lora:ink:0.8>, at night, many small lights",
    "width": 512,
    "height": 512,
    "steps": 20,
}


class Crowd:
    """Rows of one database: users, models, jobs of a trace, workers with their windows full but for one in ten."""

    def __init__(self, engine: Engine, sessions: sessionmaker[Session]):
        self._engine, self._sessions = engine, sessions
        self._trace: Trace = make_trace("mixed", workers=1000, jobs=100_000, seed=1)
        self._made = self._waiting = self._copies = 0
        self._workers = 0
        with sessions.begin() as session:
            for owner in self._trace.owners:
                session.add(User(id=owner, name=owner, role="artist", share_weight=1.0, created_at=BEGIN))
        with sessions.begin() as session:
            for kind in self._trace.kinds:
                session.add(
                    Model(
                        id=kind.name, owner_id=self._trace.owners[0], name=kind.name, name_key=kind.name, family="sdxl",
                        sha256=digest(kind.name), manifest=[], configs={}, defaults={}, bytes=kind.bytes,
                        created_at=BEGIN, deleted_at=None,
                    )
                )  # fmt: skip

    def queue(self, count: int) -> None:
        """So many jobs that wait, in all; beyond the first `BY_HAND` they are copies made inside the database."""
        more = min(count, BY_HAND) - self._waiting
        self._insert({"state": State.QUEUED} for _ in range(more))
        self._waiting += max(0, more)
        columns = Job.__table__.c
        while self._waiting < count:
            self._copies += 1
            values: dict[str, Any] = {column.name: column for column in columns}
            values["id"] = f"job_{self._copies}" + func.substr(columns.id, 6)
            originals = select(*values.values()).where(
                columns.state == State.QUEUED, columns.id.between("job_0", "job_1")
            )
            with self._sessions.begin() as session:
                session.execute(insert(Job).from_select(list(values), originals.limit(count - self._waiting)))
            self._waiting += BY_HAND
        self.analyze()

    def staff(self, count: int) -> None:
        """Exactly so many workers, each at one job and nine of ten with a second one assigned."""
        with self._sessions.begin() as session:
            session.execute(delete(JobEvent))
            session.execute(delete(Job).where(Job.worker_id.is_not(None)))
            session.execute(delete(Worker))
        rng = random.Random(count)
        names = [digest(name) for name, _ in self._trace.adapters]
        hot = sorted({int(item) for item in self._trace.wanted[:20_000]})
        for chunk in chunks(range(count), ROWS):
            rows = []
            for number in chunk:
                kind = MODELS[number % len(MODELS)]
                report = WorkerReport(
                    models=(digest(kind.name),),
                    adapters=tuple(names[item] for item in rng.sample(hot, MEMORY)),
                    disk=tuple(digest(kind.name) for kind in MODELS) + tuple(names[item] for item in rng.sample(hot, DISK)),
                    seconds_per_step={kind.name: kind.step_seconds for kind in MODELS},
                    load_seconds={digest(kind.name): kind.load_seconds for kind in MODELS},
                    memory_total=24_000_000_000,
                )  # fmt: skip
                rows.append(
                    {
                        "id": worker_id(number), "name": f"gpu-{number:05}", "device": "cuda:0", "state": "up",
                        "drain_requested": False, "report": report.as_dict(), "seq": 1, "started_at": BEGIN,
                        "last_seen": BEGIN,
                    }
                )  # fmt: skip
            with self._sessions.begin() as session:
                session.execute(insert(Worker), rows)
        # none of them would give way
        held = {"sends": 1, "attempt": 1, "assigned_at": BEGIN, "priority": 0}
        self._insert(
            {**held, "worker_id": worker_id(number), "state": State.RUNNING if place else State.ASSIGNED}
            for number in range(count)
            for place in ((1, 0) if number % 10 else (1,))
        )
        self._workers = count
        self.analyze()

    def go_on(self, beats: int) -> None:
        """Between two rounds: what was just assigned waits again, so that the next round finds as much room and as much
        to do; `beats` workers have told how they are."""
        with self._sessions.begin() as session:
            session.execute(
                update(Job)
                .where(Job.state == State.ASSIGNED, Job.assigned_at > BEGIN)
                .values(state=State.QUEUED, worker_id=None, assigned_at=None),
                execution_options={"synchronize_session": False},
            )
            first = random.randrange(self._workers)
            ids = [worker_id((first + number) % self._workers) for number in range(beats)]
            session.execute(
                update(Worker).where(Worker.id.in_(ids)).values(seq=Worker.seq + 1),
                execution_options={"synchronize_session": False},
            )

    def analyze(self) -> None:
        """Statistics, as autovacuum keeps them in a database that lives longer."""
        sqlite = self._engine.dialect.name == "sqlite"
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("analyze" if sqlite else "vacuum (analyze)"))

    def _insert(self, rows: Iterator[dict[str, Any]]) -> None:
        for chunk in chunks(rows, ROWS):
            asks = [self._trace.asks[(self._made + place) % len(self._trace)] for place in range(len(chunk))]
            full = [
                _job(self._made + place, ask, row)
                for place, (ask, row) in enumerate(zip(asks, chunk, strict=True))
            ]
            self._made += len(chunk)
            with self._sessions.begin() as session:
                session.connection().execute(insert(cast(Table, Job.__table__)), full)


def _job(number: int, ask: Ask, row: dict[str, Any]) -> dict[str, Any]:
    need = ask.key.need
    return {
        "id": f"job_{number:09}", "owner_id": ask.key.owner_id, "priority": ask.key.priority, "attempt": 0, "hb_seq": 0,
        "kind": "render", "spec": SPEC, "clean_prompt": "a fox", "warnings": [], "model_id": need.model_key,
        "model_key": digest(need.model_key), "network_set": "", "batch_key": need.model_key, "step": 0,
        "steps": ask.steps, "count": 1, "crash_count": 0, "retry_count": 0, "sends": 0, "assigned_at": None,
        "worker_id": None, "created_at": BEGIN + timedelta(milliseconds=number),
        "networks": [{"name": sha, "sha256": digest(sha), "size": size} for sha, size in need.adapters],
        **row,
    }  # fmt: skip


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def worker_id(number: int) -> str:
    return f"worker_{number:026}"


def chunks(items: Any, size: int) -> Iterator[Sequence[Any]]:
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk
