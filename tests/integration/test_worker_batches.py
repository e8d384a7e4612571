"""A worker makes several jobs in one forward pass: each picture is what it is alone, and what befalls one befalls no other."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import update

from farm.db.models import Job
from farm.embedded.up import environment_of
from farm.jobs import attempts, control
from farm.worker.effects import Effects
from farm.worker.worker import Worker
from tests.integration.test_worker_jobs import up
from tests.integration.test_worker_resume import Halt, ask_to_give_way, details, pixels
from tests.support import jobs as rows
from tests.support.worker import Rig, Start

#: prompts of three jobs with adapters, strengths and curves of their own, and of one without
PROMPTS = (
    "a fox <lora:ink:0.2@1,0.9@6>",
    "a fox <lora:oil:0.7>",
    "a fox",
    "a fox <lora:ink:-0.4> <lora:oil:0.3@1,0@4>",
)
TOGETHER = {"batch_measured": False, "heartbeat_seconds": 0.1}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


class Watched(Halt):
    """A halt that also counts the jobs of each forward pass, and does to them what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.before: Callable[[Sequence[Any]], None] = lambda states: None

    def __call__(self, effects: Effects) -> Effects:
        def step(machine: Any, states: Any) -> None:
            self.before(states)
            effects.step(machine, states)
            self.sizes.append(len(states))

        return super().__call__(dataclasses.replace(effects, step=step))


def add_jobs(rig: Rig, count: int = 4, **spec: Any) -> list[str]:
    asked = {"steps": 8, "sampler": "euler_a", **spec}
    return [rig.add_job(PROMPTS[n % 4], seed=20 + n, **asked) for n in range(count)]


def aboard(rig: Rig, worker: Worker, halt: Watched, jobs: Sequence[str], at: int = 1) -> list[int]:
    """Attempts of jobs of which the first stands after `at` steps, with the others prepared behind it."""
    halt.arm(at)
    given = [rig.assign(jobs[0], worker.id)]
    assert halt.reached.wait(60), rig.job(jobs[0]).error_message
    for number, job in enumerate(jobs[1:], start=1):
        given.append(rig.assign(job, worker.id))
        in_line(rig, worker, number)
    return given


def in_line(rig: Rig, worker: Worker, count: int) -> None:
    """Wait until so many jobs are prepared and wait for the device."""
    rig.wait_until(lambda: len(worker._sampler._line._turns) == count)


def ended(rig: Rig, jobs: Sequence[str]) -> list[str]:
    return [rig.wait_for(job, "succeeded", "failed", "cancelled").state for job in jobs]


def assert_as_alone(rig: Rig, start: Start, jobs: Sequence[str]) -> None:
    """The same jobs one by one at a worker that never shares a pass make the same pictures, but for rounding."""
    other = start(batch_limit=1, worker_name="alone")
    for job in jobs:
        with rig.sessions() as session:
            row = session.get(Job, job)
            assert row is not None
            spec = dict(row.spec)
        again = rig.add_job(spec.pop("prompt"), **spec)
        rig.assign(again, other.id)
        assert rig.wait_for(again, "succeeded", "failed").state == "succeeded"
        (mine,), (calm,) = pixels(rig, job), pixels(rig, again)
        apart = np.abs(np.frombuffer(mine, np.uint8).astype(int) - np.frombuffer(calm, np.uint8))
        assert apart.max() <= 2, (job, apart.max())


@pytest.fixture
def adapters(rig: Rig) -> None:
    rig.add_adapter("ink", 1, scale=2.0)
    rig.add_adapter("oil", 2, scale=2.0)


def test_jobs_join_between_steps_and_each_picture_is_its_own(rig: Rig, start: Start, adapters: None) -> None:
    halt = Watched()
    worker = start(halt, **TOGETHER)
    jobs = add_jobs(rig)
    aboard(rig, worker, halt, jobs, at=2)
    halt.move_on(to=5)
    assert halt.reached.wait(60)
    late = rig.add_job(PROMPTS[1], seed=40, steps=8, sampler="euler_a")
    rig.assign(late, worker.id)
    in_line(rig, worker, 1)
    halt.open.set()
    assert ended(rig, [*jobs, late]) == ["succeeded"] * 5
    # the first is alone for two steps and stands in its third; it leaves after eight, the next three after eleven
    assert halt.sizes == [1] * 3 + [4] * 3 + [5] * 2 + [4] * 3 + [1] * 3
    shared = [rig.attempt(job).timings["shared_steps"] for job in (*jobs, late)]
    assert shared == [5, 8, 8, 8, 5]
    assert worker.report().batch_sizes == {"key-8": 8}
    assert_as_alone(rig, start, [*jobs, late])


def test_a_job_without_a_branch_and_one_of_another_key_wait_for_the_device(
    rig: Rig, start: Start, adapters: None
) -> None:
    halt = Watched()
    worker = start(halt, **TOGETHER)
    jobs = [*add_jobs(rig, 2), *add_jobs(rig, 1, steps=5), *add_jobs(rig, 1)]
    aboard(rig, worker, halt, jobs)
    halt.open.set()
    assert ended(rig, jobs) == ["succeeded"] * 4
    # nobody passes the one that cannot ride
    assert halt.sizes == [1] * 2 + [2] * 6 + [1] * 2 + [1] * 5 + [1] * 8


def test_patched_jobs_share_a_pass_where_weights_agree_only(rig: Rig, start: Start, adapters: None) -> None:
    halt = Watched()
    worker = start(halt, lora_mode="patch", **TOGETHER)
    same = [rig.add_job(PROMPTS[1], seed=n, steps=8) for n in range(3)]
    jobs = [*same, *add_jobs(rig, 1)]
    aboard(rig, worker, halt, jobs)
    halt.open.set()
    assert ended(rig, jobs) == ["succeeded"] * 4
    assert halt.sizes == [1] * 2 + [3] * 6 + [2] * 2 + [1] * 8
    assert_as_alone(rig, start, jobs[1:3])


def test_a_cancel_a_nan_and_an_error_in_mid_batch_end_their_own_job_only(
    rig: Rig, start: Start, adapters: None
) -> None:
    halt = Watched()
    worker = start(halt, **TOGETHER)
    jobs = add_jobs(rig, 5)
    steps = 0

    def trouble(states: Sequence[Any]) -> None:
        nonlocal steps
        steps += 1
        by_seed = {state.spec.seeds[0]: state for state in states}
        if steps == 4:
            by_seed[21].latents.fill_(torch.nan)
        if steps >= 5 and 22 in by_seed:
            raise RuntimeError("shapes do not match")

    halt.before = trouble
    aboard(rig, worker, halt, jobs)
    with rig.sessions.begin() as session:
        control.cancel(session, rows.OWNER, jobs[3], rows.NOW)
    rig.wait_until(lambda: worker.hands._held[jobs[3]].cancel)
    halt.open.set()
    assert ended(rig, jobs) == ["succeeded", "failed", "failed", "cancelled", "succeeded"]
    assert (rig.job(jobs[1]).error_code, rig.job(jobs[2]).error_code) == ("diverged", "internal_error")
    assert "gave NaN at step" in (rig.job(jobs[1]).error_message or "")
    assert_as_alone(rig, start, [jobs[0], jobs[4]])


def test_when_memory_runs_out_half_of_a_batch_waits_and_nobody_fails(
    rig: Rig, start: Start, adapters: None
) -> None:
    halt = Watched()
    worker = start(halt, **TOGETHER)
    jobs = add_jobs(rig)

    def tight(states: Sequence[Any]) -> None:
        if len(states) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB.")

    halt.before = tight
    aboard(rig, worker, halt, jobs)
    halt.open.set()
    assert ended(rig, jobs) == ["succeeded"] * 4
    assert max(halt.sizes) == 2
    # the first two go on; one of those aside joins when the first has ended, the other after it
    assert halt.sizes == [1] * 2 + [2] * 6 + [2] * 2 + [2] * 6 + [1] * 2
    assert worker.report().batch_sizes["key-8"] == 2
    assert_as_alone(rig, start, jobs)


def test_one_gives_way_in_mid_batch_and_joins_another_later(rig: Rig, start: Start, adapters: None) -> None:
    halt = Watched()
    worker = start(halt, **TOGETHER)
    jobs = add_jobs(rig, 3)
    given = aboard(rig, worker, halt, jobs)
    halt.move_on(to=4)
    assert halt.reached.wait(60)
    ask_to_give_way(rig, worker, jobs[1], given[1])
    halt.move_on(to=6)
    assert rig.wait_for(jobs[1], "queued").checkpoint_step == 3
    assert halt.reached.wait(60)
    rig.assign(jobs[1], worker.id)
    in_line(rig, worker, 1)
    halt.open.set()
    assert ended(rig, jobs) == ["succeeded"] * 3
    assert details(rig, jobs[1], "resume") == ["went on from step 3 of 8"]
    assert halt.sizes == [1, 1, 3, 3, 3, 2, 2, 3, 2, 2] + [1] * 2
    assert_as_alone(rig, start, jobs)


def test_g09_a_drain_in_mid_batch_saves_every_job(rig: Rig, start: Start, adapters: None) -> None:
    halt = Watched()
    worker = start(halt, checkpoint_seconds=0, **TOGETHER)
    jobs = add_jobs(rig, 3)
    aboard(rig, worker, halt, jobs)
    halt.move_on(to=5)
    assert halt.reached.wait(60)
    worker.hands.leave_within(0.9)
    halt.open.set()
    for job in jobs:
        rig.wait_for(job, "queued")
    worker.stop()
    assert [rig.job(job).checkpoint_step for job in jobs] == [6, 4, 4]
    other = start(Watched(), worker_name="other", **TOGETHER)
    for job in jobs:
        rig.assign(job, other.id)
    assert ended(rig, jobs) == ["succeeded"] * 3
    assert [details(rig, job, "resume") for job in jobs] == [
        [f"went on from step {n} of 8"] for n in (6, 4, 4)
    ]
    assert_as_alone(rig, start, jobs)


def test_g19_kill_9_in_mid_batch_loses_nothing(rig: Rig, start: Start, adapters: None) -> None:
    script = "from farm.settings import load_settings; from farm.worker.main import run; run(load_settings())"
    environment = environment_of(rig.settings.model_copy(update={"checkpoint_seconds": 0.02, **TOGETHER}))
    jobs = add_jobs(rig, 3, steps=120)
    with (rig.folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        rig.wait_until(lambda: up(rig) or child.poll() is not None, seconds=240)
        assert child.poll() is None, (rig.folder / "log").read_text()[-2000:]
        for job in jobs:
            rig.assign(job, up(rig)[0])
        rig.wait_until(lambda: all((rig.job(job).checkpoint_step or 0) >= 5 for job in jobs))
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    left = [rig.job(job) for job in jobs]
    assert [row.state for row in left] == ["running"] * 3
    for row in left:
        with rig.sessions.begin() as session:
            assert attempts.lose(session, row.id, 1, row.hb_seq, crash_limit=3, now=datetime.now(UTC))
    other = start(worker_name="other", **TOGETHER)
    # each has the next worker to itself, because one of them may be what kills
    for row in left:
        rig.assign(row.id, other.id)
        assert rig.wait_for(row.id, "succeeded", "failed").state == "succeeded"
        assert details(rig, row.id, "resume") == [f"went on from step {row.checkpoint_step} of 120"]
        assert len(rig.images(row.id)) == 1
        assert rig.attempt(row.id, 2).timings["shared_steps"] == 0


def test_g08_a_job_that_was_lost_with_its_worker_rides_with_nobody(
    rig: Rig, start: Start, adapters: None
) -> None:
    halt = Watched()
    worker = start(halt, poll_seconds=0.2, **TOGETHER)
    first, lost, third = add_jobs(rig, 3)
    with rig.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == lost).values(crash_count=1))
    halt.arm(2)
    rig.assign(first, worker.id)
    assert halt.reached.wait(60)
    for job in (lost, third):
        rig.assign(job, worker.id)
    halt.open.set()
    assert ended(rig, [first, lost, third]) == ["succeeded"] * 3
    assert halt.sizes == [1] * 24
