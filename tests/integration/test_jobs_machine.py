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
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
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
#: jobs at a time: few, so that histories meet
SLOTS = 2
#: (which of them, how many attempts ago, bring it to run first)
Which = tuple[int, int, bool]
WHICH = st.tuples(st.integers(0, SLOTS - 1), st.sampled_from((0, 0, 0, 0, 1, 2)), st.booleans())


@dataclass(slots=True)
class Model:
    """What a job should look like."""

    state: str = "queued"
    attempt: int = 0
    worker: str | None = None
    beats: int = 0
    crashes: int = 0
    pardons: int = 0
    lost_on: set[str] = field(default_factory=set)
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

    def __init__(self) -> None:
        super().__init__()
        self.engine = type(self).make()
        self.sessions = make_sessions(self.engine)
        seed(self.sessions)
        self.workers = [add_worker(self.sessions, name) for name in WORKERS]
        self.now = NOW
        self.jobs: dict[str, Model] = {}
        self.slots = [self.submit() for _ in range(SLOTS)]

    def teardown(self) -> None:
        self.engine.dispose()

    def do(self, action: Callable[[Session], Any]) -> Any:
        with self.sessions.begin() as session:
            return action(session)

    def runs(self, pair: tuple[str, int]) -> Model | None:
        """The model when this pair is the one that runs."""
        model = self.jobs[pair[0]]
        return model if model.state == "running" and model.attempt == pair[1] else None

    def pair(self, which: Which) -> tuple[str, int]:
        """A job with its present attempt or one long gone, after it was brought to run if that is asked."""
        slot, ago, runs_first = which
        if runs_first:
            self.go_on(slot)
        job = self.slots[slot]
        return job, max(0, self.jobs[job].attempt - ago)

    def go_on(self, slot: int) -> None:
        """The usual way, so that histories get far: submit or retry what has ended, assign and claim what waits."""
        model = self.jobs[self.slots[slot]]
        if model.state == "succeeded" or model.code == "quarantined":
            self.slots[slot] = self.submit()
        elif model.state in ("failed", "cancelled"):
            self.retry((slot, 0, False))
        model = self.jobs[self.slots[slot]]
        if model.pause_ends is not None:
            self.now = max(self.now, model.pause_ends)
        self.assign((slot, 0, False), 0, EPOCH)
        self.claim((slot, 0, False), 0)

    def submit(self) -> str:
        job = add_job(self.sessions, webhook="https://example.org/farm")
        self.jobs[job] = Model()
        return job

    @rule(which=WHICH, worker=st.integers(0, 1), epoch=st.sampled_from((EPOCH, EPOCH, EPOCH, 0)))
    def assign(self, which: Which, worker: int, epoch: int) -> None:
        job, attempt = self.pair(which)
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

    @rule(which=WHICH, worker=st.integers(0, 1))
    def claim(self, which: Which, worker: int) -> None:
        pair = self.pair(which)
        model = self.jobs[pair[0]]
        foreseen = (model.state, model.attempt, model.worker) == ("assigned", pair[1], self.workers[worker])
        beside = [
            other
            for job, other in self.jobs.items()
            if job != pair[0]
            and other.worker == self.workers[worker]
            and other.state in ("assigned", "running")
        ]
        if model.crashes:  # what was lost with its worker has it to itself
            foreseen &= not any(other.state == "running" for other in beside)
        else:
            foreseen &= not any(other.crashes for other in beside)
        assert self.do(lambda s: attempts.claim(s, *pair, self.workers[worker], self.now)) == foreseen
        if foreseen:
            model.state = "running"

    @rule(which=WHICH, worker=st.integers(0, 1))
    def heartbeat(self, which: Which, worker: int) -> None:
        pair = self.pair(which)
        model = self.runs(pair)
        held = model is not None and model.worker == self.workers[worker]
        answer = self.do(lambda s: attempts.heartbeat(s, self.workers[worker], [(*pair, "sampling", 2)]))
        assert answer.lost == (frozenset() if held else {pair[0]})
        if held:
            assert model is not None
            assert answer.cancel == ({pair[0]} if model.cancel else frozenset())
            model.beats += 1

    @rule(which=WHICH)
    def succeed(self, which: Which) -> None:
        pair = self.pair(which)
        model = self.runs(pair)
        again = self.jobs[pair[0]].result == pair[1]
        won = self.do(lambda s: attempts.succeed(s, *pair, [new_image()], {"sampling": 1.0}, self.now))
        assert won == (model is not None or again)
        if model is not None:
            model.result = pair[1]
            model.end("succeeded")

    @rule(which=WHICH)
    def crash_before_commit(self, which: Which) -> None:
        pair = self.pair(which)
        with self.sessions() as session:
            attempts.succeed(session, *pair, [new_image()], {}, self.now)
            session.rollback()

    @rule(which=WHICH)
    def fail(self, which: Which) -> None:
        pair = self.pair(which)
        model = self.runs(pair)
        assert self.do(lambda s: attempts.fail(s, *pair, "bad", "it broke", self.now)) == (model is not None)
        if model is not None:
            model.end("failed", "bad")

    @rule(which=WHICH)
    def retry_later(self, which: Which) -> None:
        pair = self.pair(which)
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

    @rule(which=WHICH)
    def hand_back(self, which: Which) -> None:
        pair = self.pair(which)
        model = self.jobs[pair[0]]
        foreseen = model.state in ("assigned", "running") and model.attempt == pair[1]
        assert self.do(lambda s: attempts.hand_back(s, *pair, self.now)) == foreseen
        if foreseen:
            model.to_queue()

    @rule(which=WHICH)
    def unassign(self, which: Which) -> None:
        pair = self.pair(which)
        model = self.jobs[pair[0]]
        foreseen = (model.state, model.attempt) == ("assigned", pair[1])
        assert self.do(lambda s: attempts.unassign(s, *pair, self.now, epoch=EPOCH)) == foreseen
        if foreseen:
            model.to_queue()

    @rule(
        which=WHICH,
        seen=st.integers(0, 2),
        epoch=st.sampled_from((EPOCH, EPOCH, EPOCH, 0)),
        outage=st.sampled_from((False, False, False, True)),
    )
    def lose(self, which: Which, seen: int, epoch: int, outage: bool) -> None:
        pair = self.pair(which)
        model = self.runs(pair)
        won = self.do(
            lambda s: attempts.lose(
                s, *pair, seen, crash_limit=CRASH_LIMIT, now=self.now, epoch=epoch, outage=outage
            )
        )
        assert won == (model is not None and model.beats == seen and epoch == EPOCH)
        if not won:
            return
        assert model is not None
        assert model.worker is not None
        if outage and model.pardons < CRASH_LIMIT:
            model.pardons += 1
            model.to_queue()
            return
        model.crashes += 1
        model.lost_on.add(model.worker)
        # a job that could be tried on the other worker is given up later
        limit = CRASH_LIMIT if len(model.lost_on) == len(WORKERS) else 2 * CRASH_LIMIT
        if model.crashes < limit or model.cancel:
            model.to_queue()
        else:
            model.end("failed", "quarantined")

    @rule(which=WHICH)
    def cancel(self, which: Which) -> None:
        pair = self.pair(which)
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

    @rule(which=WHICH)
    def cancelled(self, which: Which) -> None:
        pair = self.pair(which)
        model = self.runs(pair)
        foreseen = model is not None and model.cancel
        assert self.do(lambda s: attempts.cancelled(s, *pair, self.now)) == foreseen
        if foreseen:
            assert model is not None
            model.end("cancelled")

    @rule(which=WHICH)
    def retry(self, which: Which) -> None:
        pair = self.pair(which)
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

        check(make, examples=50, steps=40)


def test_random_histories_on_postgresql(postgres: PostgresServer) -> None:
    url = postgres.fresh()

    def make() -> Engine:
        engine = make_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("truncate users, jobs, workers, leases cascade")
        return engine

    check(make, examples=15, steps=30)
    postgres.drop(url)
