"""A job stops in the middle of its run and goes on at another worker, bit for bit; where it cannot, it says so."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from farm.db.models import JobEvent
from farm.embedded.up import environment_of
from farm.errors import Transient
from farm.jobs import attempts, control, resuming
from farm.models.families import describe, layout
from farm.store.sweep import sweep_checkpoints
from farm.worker.effects import Effects
from farm.worker.worker import Worker
from tests.integration.test_worker_jobs import up
from tests.support import jobs as rows
from tests.support import tiny_pipelines
from tests.support.tiny import tiny_sd15
from tests.support.tiny_dit import tiny_sd3
from tests.support.worker import Rig, Start

CURVE = "a fox <lora:ink:0.2@1,0.9@6>"
SAMPLERS = ("ddim", "euler_a", "dpmpp_2m", "unipc", "heun")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture(scope="session")
def small_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = getattr(request, "param", "sd15")
    folder = tmp_path_factory.mktemp(name) / "model"
    if name == "sd3":
        tiny_sd3(folder).save_pretrained(folder, safe_serialization=True)
        return folder
    return tiny_sd15(folder) if name == "sd15" else tiny_pipelines.write(name, folder)


class Halt:
    """Counts steps, and holds the device before the step that follows `at` of them until it is opened."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.reached, self.open = threading.Event(), threading.Event()
        self.steps = 0

    def arm(self, at: int) -> None:
        self.steps = 0
        self.reached.clear()
        self.open.clear()
        self.at = at

    def move_on(self, to: int) -> None:
        """Let it go, to hold it again later."""
        self.reached.clear()
        gate, self.open, self.at = self.open, threading.Event(), to
        gate.set()

    def __call__(self, effects: Effects) -> Effects:
        def step(machine: Any, states: Any) -> None:
            while self.steps == self.at:
                gate = self.open
                self.reached.set()
                assert gate.wait(120)
                if gate is self.open:
                    self.at = None
            effects.step(machine, states)
            self.steps += 1

        return dataclasses.replace(effects, step=step)


def halted(rig: Rig, worker: Worker, halt: Halt, job_id: str, at: int) -> int:
    """The attempt of a job that stands in the middle of its run."""
    halt.arm(at)
    attempt = rig.assign(job_id, worker.id)
    assert halt.reached.wait(60), rig.job(job_id).error_message
    return attempt


def ask_to_give_way(rig: Rig, worker: Worker, job_id: str, attempt: int) -> None:
    with rig.sessions.begin() as session:
        assert resuming.preempt(session, job_id, attempt, "job_urgent waits", rows.NOW, epoch=rows.EPOCH)
    rig.wait_until(lambda: worker.hands._held[job_id].give_way)


def give_way(rig: Rig, worker: Worker, halt: Halt, job_id: str, at: int) -> None:
    """Begin a job, and let it give way in the step after `at`."""
    attempt = halted(rig, worker, halt, job_id, at)
    ask_to_give_way(rig, worker, job_id, attempt)
    halt.open.set()
    assert rig.wait_for(job_id, "queued", "succeeded", "failed").state == "queued"


def render(rig: Rig, worker: Worker, job_id: str) -> list[bytes]:
    """Pixels of the pictures."""
    rig.assign(job_id, worker.id)
    job = rig.wait_for(job_id, "succeeded", "failed")
    assert (job.state, job.error_message) == ("succeeded", None)
    return pixels(rig, job_id)


def pixels(rig: Rig, job_id: str) -> list[bytes]:
    return [
        Image.open(BytesIO(rig.store.get_bytes(image.object_key))).tobytes() for image in rig.images(job_id)
    ]


def details(rig: Rig, job_id: str, transition: str) -> list[str]:
    with rig.sessions() as session:
        found = session.scalars(
            select(JobEvent.detail).where(JobEvent.job_id == job_id, JobEvent.transition == transition)
        )
        return [text or "" for text in found]


def stored(rig: Rig, job_id: str) -> list[str]:
    return [item.key for item in rig.store.list_objects(f"checkpoints/{rows.OWNER}/{job_id}/")]


def test_every_sampler_goes_on_elsewhere_bit_for_bit_also_when_its_adapter_changes(
    rig: Rig, start: Start
) -> None:
    rig.add_adapter("ink", scale=3.0)
    halt = Halt()
    worker = start(halt)
    jobs = {sampler: rig.add_job(CURVE, steps=6, sampler=sampler) for sampler in SAMPLERS}
    for job_id in jobs.values():
        give_way(rig, worker, halt, job_id, at=2)
        row = rig.job(job_id)
        assert (row.checkpoint_step, row.crash_count, row.retry_count) == (3, 0, 0)
        assert rig.attempt(job_id).outcome == "preempted"
    worker.stop()
    other = start(halt, worker_name="other")
    for sampler, job_id in jobs.items():
        calm = render(rig, other, rig.add_job(CURVE, steps=6, sampler=sampler))
        halt.steps = 0
        assert render(rig, other, job_id) == calm, sampler
        assert halt.steps == 3
        assert details(rig, job_id, "resume") == ["went on from step 3 of 6"]
        assert rig.job(job_id).warnings == []
        rig.wait_until(lambda job_id=job_id: not stored(rig, job_id))  # type: ignore[misc]


@pytest.mark.parametrize("small_model", ["sd3"], indirect=True)
def test_a_flow_family_goes_on_bit_for_bit(rig: Rig, start: Start, small_model: Path) -> None:
    info = describe(small_model)
    of = layout(info.family, info.configs)
    tiny_pipelines.random_lora(rig.folder / "ink.safetensors", of, of.components)
    rig.put_adapter("ink", rig.folder / "ink.safetensors")
    halt = Halt()
    worker = start(halt)
    asked = {"steps": 6, "sampler": "flow_euler", "width": 32, "height": 48}
    calm = render(rig, worker, rig.add_job(CURVE, **asked))
    job_id = rig.add_job(CURVE, **asked)
    give_way(rig, worker, halt, job_id, at=3)
    assert render(rig, worker, job_id) == calm
    assert details(rig, job_id, "resume") == ["went on from step 4 of 6"]


def test_a_second_pass_and_the_parts_of_a_large_job_go_on_where_they_were(rig: Rig, start: Start) -> None:
    halt = Halt()

    def tight(effects: Effects) -> Effects:
        def step(machine: Any, states: Any) -> None:
            if len(states[0].generators) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB.")
            effects.step(machine, states)

        return halt(dataclasses.replace(effects, step=step))

    worker = start(tight)
    asked = {
        "steps": 2,
        "hr_scale": 1.5,
        "hr_steps": 3,
        "hr_strength": 0.75,
        "count": 4,
        "sampler": "euler_a",
    }
    calm = render(rig, worker, rig.add_job(**asked))
    for at, said in (
        (1, "went on from step 0 of 3 of the second pass of pictures 1 to 2"),
        (8, "went on from step 2 of 3 of the second pass of pictures 3 to 4"),
    ):
        job_id = rig.add_job(**asked)
        give_way(rig, worker, halt, job_id, at=at)
        halt.steps = 0
        assert render(rig, worker, job_id) == calm
        assert details(rig, job_id, "resume") == [said]
        assert halt.steps == 10 - (at + 1)


def test_an_urgent_job_goes_first_and_the_other_goes_on_after_it(rig: Rig, start: Start) -> None:
    halt = Halt()
    worker = start(halt)
    calm = render(rig, worker, rig.add_job(steps=8))
    bulk, urgent = rig.add_job(steps=8), rig.add_job(steps=3, seed=9)
    attempt = halted(rig, worker, halt, bulk, at=4)
    rig.assign(urgent, worker.id)
    rig.wait_until(lambda: urgent in worker.hands.current())
    ask_to_give_way(rig, worker, bulk, attempt)
    halt.open.set()
    assert rig.wait_for(urgent, "succeeded", "failed").state == "succeeded"
    assert rig.job(bulk).state == "queued"
    assert details(rig, bulk, "hand_back") == ["gave way to a more urgent job"]
    assert render(rig, worker, bulk) == calm
    assert details(rig, bulk, "resume") == ["went on from step 5 of 8"]


def test_g09_a_drain_saves_what_does_not_fit(rig: Rig, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # so nothing ever fits, and the time to drain is long enough to store a checkpoint on any machine
    monkeypatch.setattr("farm.worker.ride.PUBLISH_SECONDS", 1000.0)
    halt = Halt()
    worker = start(halt, checkpoint_seconds=0)
    job_id = rig.add_job(steps=8)
    halted(rig, worker, halt, job_id, at=3)
    worker.hands.leave_within(40)
    halt.open.set()
    rig.wait_for(job_id, "queued")
    worker.stop()
    assert (rig.attempt(job_id).outcome, rig.job(job_id).checkpoint_step) == ("drained", 4)
    other = start(worker_name="other")
    went_on = render(rig, other, job_id)
    assert details(rig, job_id, "resume") == ["went on from step 4 of 8"]
    assert went_on == render(rig, other, rig.add_job(steps=8))


#: a worker that stands still in the middle of its job, so that it is killed there however slow the killer
STANDING = """
import dataclasses, itertools, time
from farm.settings import load_settings
from farm.worker.main import run

steps = itertools.count()

def wrap(effects):
    def step(*given):
        if next(steps) == 30:
            time.sleep(600)
        effects.step(*given)
    return dataclasses.replace(effects, step=step)

run(load_settings(), wrap)
"""


def test_g19_after_kill_9_another_worker_goes_on_bit_for_bit(rig: Rig, start: Start) -> None:
    environment = environment_of(rig.settings.model_copy(update={"checkpoint_seconds": 0.02}))
    rig.add_adapter("ink", scale=3.0)
    asked = {"steps": 50, "sampler": "euler_a"}
    job_id = rig.add_job(CURVE, **asked)
    with (rig.folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", STANDING], env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        rig.wait_until(lambda: up(rig) or child.poll() is not None, seconds=240)
        assert child.poll() is None, (rig.folder / "log").read_text()[-2000:]
        rig.assign(job_id, up(rig)[0])
        rig.wait_until(lambda: (rig.job(job_id).checkpoint_step or 0) >= 10)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    row = rig.job(job_id)
    assert row.state == "running"
    with rig.sessions.begin() as session:
        assert attempts.lose(session, job_id, 1, row.hb_seq, crash_limit=3, now=datetime.now(UTC))
    halt = Halt()
    other = start(halt, worker_name="other")
    went_on = render(rig, other, job_id)
    (said,) = details(rig, job_id, "resume")
    assert said == f"went on from step {row.checkpoint_step} of 50"
    assert halt.steps == 50 - (row.checkpoint_step or 0)
    assert went_on == render(rig, other, rig.add_job(CURVE, **asked))


def test_a_damaged_missing_or_foreign_checkpoint_starts_the_job_over_in_words(rig: Rig, start: Start) -> None:
    halt = Halt()
    worker = start(halt)
    calm = render(rig, worker, rig.add_job(steps=5))

    def damage(key: str) -> None:
        data = bytearray(rig.store.get_bytes(key))
        data[-1] ^= 1
        rig.store.put_bytes(key, bytes(data))

    def other_strengths(_: str) -> None:
        with rig.sessions.begin() as session:
            job = session.get(rows.Job, job_id)
            assert job is not None
            job.spec = {**job.spec, "guidance_scale": 4.0}

    for spoil, said in (
        (damage, "its checkpoint is damaged, started over"),
        (rig.store.delete, "its checkpoint cannot be read"),
        (other_strengths, "its checkpoint is of another request, started over"),
    ):
        job_id = rig.add_job(steps=5)
        give_way(rig, worker, halt, job_id, at=2)
        (key,) = stored(rig, job_id)
        spoil(key)
        halt.steps = 0
        assert (render(rig, worker, job_id) == calm) == (spoil is not other_strengths)
        assert halt.steps == 5
        (warning,) = rig.job(job_id).warnings
        assert warning.startswith(said)
        assert details(rig, job_id, "resume") == []


@pytest.mark.parametrize("small_model", ["auraflow"], indirect=True)
def test_a_pipeline_does_not_give_way_and_starts_over_in_words(rig: Rig, start: Start) -> None:
    halt = Halt()
    worker = start(halt)
    asked = {"steps": 3, "sampler": "flow_euler", "width": 32, "height": 48}
    job_id = rig.add_job(**asked)
    attempt = halted(rig, worker, halt, job_id, at=1)
    ask_to_give_way(rig, worker, job_id, attempt)
    halt.open.set()
    assert rig.wait_for(job_id, "succeeded", "queued").state == "succeeded"

    lost = rig.add_job(**asked)
    halted(rig, worker, halt, lost, at=1)
    rig.wait_until(lambda: rig.job(lost).hb_seq > 0)
    with rig.sessions.begin() as session:
        assert attempts.hand_back(session, lost, 1, rows.NOW, timings={"sampling": 1.0})
    rig.wait_until(lambda: worker.hands._held[lost].lost)
    halt.open.set()
    rig.wait_until(lambda: not worker.hands.current())
    render(rig, worker, lost)
    assert rig.job(lost).warnings == ["the pipeline of auraflow cannot be saved, started over"]


def test_a_cancel_meanwhile_wins_and_its_checkpoint_goes(rig: Rig, start: Start) -> None:
    halt = Halt()
    worker = start(halt, checkpoint_seconds=1e-6)
    job_id = rig.add_job(steps=30)
    attempt = halted(rig, worker, halt, job_id, at=5)
    rig.wait_until(lambda: rig.job(job_id).checkpoint_step == 5)
    ask_to_give_way(rig, worker, job_id, attempt)
    with rig.sessions.begin() as session:
        control.cancel(session, rows.OWNER, job_id, rows.NOW)
    rig.wait_until(lambda: worker.hands._held[job_id].cancel)
    halt.open.set()
    assert rig.wait_for(job_id, "cancelled", "queued").state == "cancelled"
    rig.wait_until(lambda: not stored(rig, job_id))

    waits = rig.add_job(steps=30)
    give_way(rig, worker, halt, waits, at=2)
    with rig.sessions.begin() as session:
        assert control.cancel(session, rows.OWNER, waits, rows.NOW) == "cancelled"
    assert stored(rig, waits)
    with rig.sessions() as session:
        sweep_checkpoints(
            rig.store, lambda jobs: resuming.checkpoints_in_use(session, jobs),
            datetime.now(UTC) + timedelta(hours=25),
        )  # fmt: skip
    assert not stored(rig, waits)


def test_a_checkpoint_that_comes_after_the_attempt_is_over_counts_for_nothing(rig: Rig, start: Start) -> None:
    """The record of a slow store meets the attempt that goes on: the later attempt's word stands."""
    late, go = threading.Event(), threading.Event()
    halt = Halt()

    def slow(effects: Effects) -> Effects:
        def upload(key: str, data: bytes, media_type: str) -> str:
            sha256 = effects.upload(key, data, media_type)
            if "/1/2.safetensors" in key:
                late.set()
                assert go.wait(60)
            return sha256

        return halt(dataclasses.replace(effects, upload=upload))

    worker = start(slow, checkpoint_seconds=1e-6)
    job_id = rig.add_job(steps=6)
    halted(rig, worker, halt, job_id, at=1)
    rig.wait_until(lambda: rig.job(job_id).checkpoint_step == 1)
    halt.move_on(to=3)
    assert late.wait(60)
    assert halt.reached.wait(60)
    with rig.sessions.begin() as session:
        assert attempts.hand_back(session, job_id, 1, rows.NOW)
    rig.wait_until(lambda: worker.hands._held[job_id].lost)
    halt.open.set()
    rig.wait_until(lambda: not worker.hands.current())

    halted(rig, worker, halt, job_id, at=2)
    go.set()
    rig.wait_until(lambda: (rig.job(job_id).checkpoint_step or 0) > 1)
    assert "/2/" in (rig.job(job_id).checkpoint_key or "")
    assert not [key for key in stored(rig, job_id) if "/1/2." in key]
    halt.open.set()
    assert rig.wait_for(job_id, "succeeded", "failed").state == "succeeded"
    assert details(rig, job_id, "resume") == ["went on from step 1 of 6"]
    rig.wait_until(lambda: not stored(rig, job_id), lambda: str(stored(rig, job_id)))
    calm = rig.add_job(steps=6)
    assert pixels(rig, job_id) == render(rig, worker, calm)


def test_a_store_that_takes_no_checkpoint_costs_the_job_nothing(rig: Rig, start: Start) -> None:
    def away(effects: Effects) -> Effects:
        def upload(key: str, data: bytes, media_type: str) -> str:
            if key.startswith("checkpoints/"):
                raise Transient("the store is away")
            return effects.upload(key, data, media_type)

        return dataclasses.replace(effects, upload=upload)

    worker = start(away, checkpoint_seconds=1e-6)
    job_id = rig.add_job(steps=5)
    render(rig, worker, job_id)
    assert (rig.job(job_id).checkpoint_key, rig.job(job_id).attempt) == (None, 1)
