"""Random histories of one farm against a plain model of it: stale pairs are replayed at any time, and every answer is foreseen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from farm.db.engine import make_engine, make_sessions
from farm.db.models import Attempt, Image, Job, JobEvent, Outbox
from farm.errors import Conflict
from farm.jobs import attempts, control
from farm.jobs.states import TERMINAL, TRANSITIONS, State
from tests.support.databases import PostgresServer
from tests.support.jobs import EPOCH, NOW, OWNER, add_job, add_worker, new_image, seed

CRASH_LIMIT = 3
WORKERS = ("gpu-1", "gpu-2")


@dataclass(slots=True)
class Model:
    """What a job should look like."""

    state: str = "queued"
    attempt: int = 0
    worker: str | None = None
    beats: int = 0
    crashes: int = 0
    retries: int = 0
    cancel: bool = False
    pause_ends: datetime | None = None
    result: int | None = None
    code: str | None = None
    ended: list[str] = field(default_factory=list)

    def to_queue(self) -> None:
        self.worker = None
        self.state = "cancelled" if self.cancel else "queued"
        if self.cancel:
            self.ended.append("cancelled")

    def end(self, state: str, code: str | None = None) -> None:
        self.state, self.worker, self.code = state, None, code
        self.ended.append(state)


class Farm(RuleBasedStateMachine):
    """Owners, a leader and two workers that act at random, also with pairs of (job, attempt) long gone."""

    make: ClassVar[Callable[[], Engine]]

    pairs: Bundle[tuple[str, int]] = Bundle("pairs")

    def __init__(self) -> None:
        super().__init__()
        self.engine = type(self).make()
        self.sessions = make_sessions(self.engine)
        seed(self.sessions)
        self.workers = [add_worker(self.sessions, name) for name in WORKERS]
        self.jobs: dict[str, Model] = {}
        self.now = NOW

    def teardown(self) -> None:
        self.engine.dispose()

    def do(self, action: Callable[[Session], Any]) -> Any:
        with self.sessions.begin() as session:
            return action(session)

    def runs(self, pair: tuple[str, int]) -> Model | None:
        """The model when this pair is the one that runs."""
        model = self.jobs[pair[0]]
        return model if model.state == "running" and model.attempt == pair[1] else None

    @rule(target=pairs)
    def submit(self) -> tuple[str, int]:
        job = add_job(self.sessions, webhook="https://example.org/farm")
        self.jobs[job] = Model()
        return job, 0

    @rule(target=pairs, pair=pairs, worker=st.integers(0, 1), epoch=st.sampled_from((EPOCH, EPOCH, EPOCH, 0)))
    def assign(self, pair: tuple[str, int], worker: int, epoch: int) -> tuple[str, int]:
        job, attempt = pair
        model = self.jobs[job]
        foreseen = (
            model.state == "queued"
            and model.attempt == attempt
            and (model.pause_ends is None or model.pause_ends <= self.now)
            and epoch == EPOCH
        )
        won = self.do(lambda s: attempts.assign(s, job, attempt, self.workers[worker], self.now, epoch=epoch))
        assert won == foreseen
        if won:
            model.state, model.worker = "assigned", self.workers[worker]
            model.attempt, model.beats, model.pause_ends = attempt + 1, 0, None
        return job, model.attempt

    @rule(pair=pairs, worker=st.integers(0, 1))
    def claim(self, pair: tuple[str, int], worker: int) -> None:
        model = self.jobs[pair[0]]
        foreseen = (model.state, model.attempt, model.worker) == ("assigned", pair[1], self.workers[worker])
        assert self.do(lambda s: attempts.claim(s, *pair, self.workers[worker], self.now)) == foreseen
        if foreseen:
            model.state = "running"

    @rule(pair=pairs)
    def run(self, pair: tuple[str, int]) -> None:
        """The usual way, so that histories get far: assign and claim what waits."""
        job = pair[0]
        model = self.jobs[job]
        if model.state == "queued" and (model.pause_ends is None or model.pause_ends <= self.now):
            self.assign((job, model.attempt), 0, EPOCH)
            self.claim((job, model.attempt), 0)

    @rule(pair=pairs, worker=st.integers(0, 1))
    def heartbeat(self, pair: tuple[str, int], worker: int) -> None:
        model = self.runs(pair)
        held = model is not None and model.worker == self.workers[worker]
        answer = self.do(lambda s: attempts.heartbeat(s, self.workers[worker], [(*pair, "sampling", 2)]))
        assert answer.lost == (frozenset() if held else {pair[0]})
        if held:
            assert model is not None
            assert answer.cancel == ({pair[0]} if model.cancel else frozenset())
            model.beats += 1

    @rule(pair=pairs)
    def succeed(self, pair: tuple[str, int]) -> None:
        model = self.runs(pair)
        again = self.jobs[pair[0]].result == pair[1]
        won = self.do(lambda s: attempts.succeed(s, *pair, [new_image()], {"sampling": 1.0}, self.now))
        assert won == (model is not None or again)
        if model is not None:
            model.result = pair[1]
            model.end("succeeded")

    @rule(pair=pairs)
    def crash_before_commit(self, pair: tuple[str, int]) -> None:
        with self.sessions() as session:
            attempts.succeed(session, *pair, [new_image()], {}, self.now)
            session.rollback()

    @rule(pair=pairs)
    def fail(self, pair: tuple[str, int]) -> None:
        model = self.runs(pair)
        assert self.do(lambda s: attempts.fail(s, *pair, "bad", "it broke", self.now)) == (model is not None)
        if model is not None:
            model.end("failed", "bad")

    @rule(pair=pairs)
    def retry_later(self, pair: tuple[str, int]) -> None:
        model = self.runs(pair)
        won = self.do(lambda s: attempts.retry_later(s, *pair, "away", "away", self.now, most=2))
        assert won == (model is not None)
        if model is None:
            return
        if model.retries >= 2:
            model.end("failed", "away")
            return
        model.pause_ends = self.now + attempts.pause(pair[0], model.retries)
        model.retries += 1
        model.to_queue()

    @rule(pair=pairs)
    def hand_back(self, pair: tuple[str, int]) -> None:
        model = self.jobs[pair[0]]
        foreseen = model.state in ("assigned", "running") and model.attempt == pair[1]
        assert self.do(lambda s: attempts.hand_back(s, *pair, self.now)) == foreseen
        if foreseen:
            model.to_queue()

    @rule(pair=pairs)
    def unassign(self, pair: tuple[str, int]) -> None:
        model = self.jobs[pair[0]]
        foreseen = (model.state, model.attempt) == ("assigned", pair[1])
        assert self.do(lambda s: attempts.unassign(s, *pair, self.now, epoch=EPOCH)) == foreseen
        if foreseen:
            model.to_queue()

    @rule(pair=pairs, seen=st.integers(0, 2))
    def lose(self, pair: tuple[str, int], seen: int) -> None:
        model = self.runs(pair)
        won = self.do(lambda s: attempts.lose(s, *pair, seen, crash_limit=CRASH_LIMIT, now=self.now))
        assert won == (model is not None and model.beats == seen)
        if not won:
            return
        assert model is not None
        model.crashes += 1
        if model.crashes < CRASH_LIMIT or model.cancel:
            model.to_queue()
        else:
            model.end("failed", "quarantined")

    @rule(pair=pairs)
    def cancel(self, pair: tuple[str, int]) -> None:
        model = self.jobs[pair[0]]
        if model.state in ("succeeded", "failed"):
            with pytest.raises(Conflict):
                self.do(lambda s: control.cancel(s, OWNER, pair[0], self.now))
            return
        state = self.do(lambda s: control.cancel(s, OWNER, pair[0], self.now))
        if model.state in ("queued", "assigned"):
            model.end("cancelled")
        model.cancel = True
        assert state == model.state

    @rule(pair=pairs)
    def cancelled(self, pair: tuple[str, int]) -> None:
        model = self.runs(pair)
        foreseen = model is not None and model.cancel
        assert self.do(lambda s: attempts.cancelled(s, *pair, self.now)) == foreseen
        if foreseen:
            assert model is not None
            model.end("cancelled")

    @rule(pair=pairs)
    def retry(self, pair: tuple[str, int]) -> None:
        model = self.jobs[pair[0]]
        if model.state not in ("failed", "cancelled") or model.code == "quarantined":
            with pytest.raises(Conflict):
                self.do(lambda s: control.retry(s, OWNER, pair[0], self.now))
            return
        self.do(lambda s: control.retry(s, OWNER, pair[0], self.now))
        model.state, model.code, model.cancel, model.pause_ends = "queued", None, False, None
        model.crashes = model.retries = 0

    @rule(seconds=st.integers(-3600, 3600))
    def clock_jumps(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        with self.sessions() as session:
            rows = session.scalars(select(Job)).all()
            images = session.execute(select(Image.job_id, Image.index)).all()
            outbox = session.scalars(select(Outbox)).all()
            open_attempts = session.scalars(select(Attempt.job_id).where(Attempt.ended_at.is_(None))).all()
            events = session.execute(select(JobEvent.job_id, JobEvent.transition, JobEvent.state)).all()
        assert {row.id for row in rows} == set(self.jobs)
        for row in rows:
            model = self.jobs[row.id]
            found = (
                row.state,
                row.attempt,
                row.worker_id,
                row.crash_count,
                row.retry_count,
                row.result_attempt,
            )
            foreseen = (model.state, model.attempt, model.worker, model.crashes, model.retries, model.result)
            assert found == foreseen
            assert row.error_code == model.code
            assert (row.cancel_requested_at is not None) == model.cancel
            assert row.state != "running" or row.hb_seq == model.beats
            assert (row.finished_at is not None) == (State(row.state) in TERMINAL)
        # exactly one result of what succeeded, none of anything else
        assert sorted(images) == sorted(
            (job, 0) for job, model in self.jobs.items() if model.state == "succeeded"
        )
        # one webhook for every end
        told = sorted((row.job_id, row.payload["data"]["state"]) for row in outbox)
        assert told == sorted((job, state) for job, model in self.jobs.items() for state in model.ended)
        assert {job for job, model in self.jobs.items() if model.state == "running"} >= set(open_attempts)
        for _, transition, state in events:
            assert State(state) in TRANSITIONS[transition].targets


def check(make: Callable[[], Engine], examples: int, steps: int) -> None:
    machine = type("FarmHere", (Farm,), {"make": staticmethod(make)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_histories_on_sqlite(sqlite_template: Path) -> None:
    fast = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        path = Path(folder) / "farm.db"

        def make() -> Engine:
            for old in Path(folder).iterdir():
                old.unlink()
            shutil.copy(sqlite_template, path)
            return make_engine(f"sqlite:///{path}")

        check(make, examples=40, steps=40)


def test_random_histories_on_postgresql(postgres: PostgresServer) -> None:
    url = postgres.fresh()

    def make() -> Engine:
        engine = make_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("truncate users, jobs, workers, leases cascade")
        return engine

    check(make, examples=12, steps=30)
    postgres.drop(url)
