"""A worker renders: from an assigned row and a message to a picture in the store and rows in SQL."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image
from redis import Redis
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from farm.db.models import Job
from farm.db.models import Worker as WorkerRow
from farm.embedded.up import environment_of
from farm.errors import Transient
from farm.jobs import control
from farm.jobs.metadata import read_png
from farm.models.families import describe, layout
from farm.queue import events
from farm.queue.wake import BELL
from farm.worker.effects import Effects
from farm.worker.pulse import DEAF_LOOKS
from tests.support import jobs as rows
from tests.support import tiny_pipelines
from tests.support.worker import Rig, Start


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: what differs between databases is tested with the statements themselves."""
    return sqlite_url


def test_a_message_becomes_a_picture_in_the_store_and_rows(rig: Rig, start: Start, redis: Redis) -> None:
    worker = start(cache_dir=rig.folder / "cold")
    job_id = rig.add_job(count=2)
    rig.assign(job_id, worker.id)
    job = rig.wait_for(job_id, "succeeded", "failed")

    assert (job.state, job.error_message) == ("succeeded", None)
    assert job.result_attempt == 1
    images = rig.images(job_id)
    assert [(image.index, image.seed) for image in images] == [(0, 7), (1, 8)]
    for image in images:
        data = rig.store.get_bytes(image.object_key)
        assert image.object_key == f"results/{rows.OWNER}/{job_id}/1/{image.index}.png"
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (image.sha256, image.size)
        assert Image.open(BytesIO(data)).size == (64, 64)
        read = read_png(data)
        assert read is not None
        assert read["prompt"] == "a fox"
    timings = rig.attempt(job_id).timings
    assert all(timings[stage] > 0 for stage in ("fetching", "loading", "sampling", "uploading")), timings
    assert timings["bytes_fetched"] > 0
    assert not timings["model_hit"]
    assert rows.events_of(rig.sessions, job_id)[-2:] == ["claim", "succeed"]


@pytest.mark.parametrize("small_model", ["ltxv"], indirect=True)
def test_a_clip_becomes_a_video_in_the_store_and_rows(rig: Rig, start: Start) -> None:
    worker = start()
    job_id = rig.add_job(count=2, frames=9, fps=8.0, width=64, height=32, sampler="flow_euler")
    rig.assign(job_id, worker.id)
    job = rig.wait_for(job_id, "succeeded", "failed")
    assert (job.state, job.error_message) == ("succeeded", None)
    for index, image in enumerate(rig.images(job_id)):
        assert image.object_key == f"results/{rows.OWNER}/{job_id}/1/{index}.webm"
        assert (image.media_type, image.frames, image.fps, image.duration) == ("video/webm", 9, 8.0, 1.125)
        assert (image.width, image.height, image.seed) == (64, 32, 7 + index)
        data = rig.store.get_bytes(image.object_key)
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (image.sha256, image.size)
        with av.open(BytesIO(data)) as container:
            said = json.loads({name.lower(): text for name, text in container.metadata.items()}["farm"])
            assert len(list(container.decode(video=0))) == 9
        assert (said["seed"], said["frames"], said["fps"]) == (7 + index, 9, 8.0)
        assert said == image.info
        assert image.poster_key is not None
        still = Image.open(BytesIO(rig.store.get_bytes(image.poster_key)))
        assert (still.format, still.size) == ("WEBP", (64, 32))


def test_a_second_pass_enlarges_the_picture_with_strengths_of_its_own(
    rig: Rig, start: Start, redis: Redis
) -> None:
    rig.add_adapter("ink", scale=3.0)
    worker = start()
    prompts = ["a fox <lora:ink:0.5>", "a fox <lora:ink:0.5:hr=0.5>", "a fox <lora:ink:0.5:hr=0>"]
    jobs = [
        rig.add_job(prompt, steps=2, hr_scale=1.5, hr_steps=3, hr_strength=0.75, seed=7) for prompt in prompts
    ]
    for job_id in jobs:
        rig.assign(job_id, worker.id)
    for job_id in jobs:
        assert rig.wait_for(job_id, "succeeded", "failed").state == "succeeded"
    plain, same, other = [Image.open(BytesIO(rig.picture(job_id))) for job_id in jobs]
    assert plain.size == (96, 96)
    assert plain.tobytes() == same.tobytes() != other.tobytes()
    (image,) = rig.images(jobs[0])
    assert (image.width, image.height, image.info["width"], image.info["hr_steps"]) == (96, 96, 64, 3)
    assert "Denoising strength: 0.75, Hires upscale: 1.5, Hires steps: 3" in plain.text["parameters"]  # type: ignore[attr-defined]
    steps = [event.data["step"] for event in told(redis, "jobs") if event.data["id"] == jobs[0]]
    assert steps == sorted(steps)
    assert max(steps) == 5
    assert all(event.data["steps"] == 5 for event in told(redis, "jobs"))


def test_a_cancel_ends_the_second_pass_too(rig: Rig, start: Start) -> None:
    gate = Gate(at=4)
    worker = start(gate)
    job_id = rig.add_job(steps=3, hr_scale=2.0, hr_steps=50, hr_strength=0.5)
    rig.assign(job_id, worker.id)
    assert gate.reached.wait(60)
    with rig.sessions.begin() as session:
        control.cancel(session, rows.OWNER, job_id, rows.NOW)
    rig.wait_until(lambda: worker.hands._held[job_id].cancel)
    gate.open.set()
    assert rig.wait_for(job_id, "cancelled", "succeeded").state == "cancelled"
    assert gate.steps <= 5


@pytest.mark.parametrize("small_model", ["auraflow", "ltxv"], indirect=True)
def test_a_family_that_runs_through_its_pipeline(
    rig: Rig, start: Start, redis: Redis, small_model: Path
) -> None:
    """A picture and a video; the tag changes text and picture at their steps, and leaves no trace."""
    info = describe(small_model)
    asked: dict[str, Any] = {"width": 32, "height": 64, "sampler": "flow_euler", "guidance_scale": 3.0}
    asked |= {"frames": 9, "fps": 8.0} if info.video else {}
    of = layout(info.family, info.configs)
    tiny_pipelines.random_lora(rig.folder / "ink.safetensors", of, of.components)
    rig.put_adapter("ink", rig.folder / "ink.safetensors")
    shown: list[str] = []

    def watched(effects: Effects) -> Effects:
        def step(machine: Any, states: Any) -> None:
            # the last step waits until the thread that shows previews has shown one
            (state,) = states
            if state.step == state.steps - 1:
                rig.wait_until(lambda: redis.exists(f"farm:preview:{shown[-1]}"))
            effects.step(machine, states)

        return dataclasses.replace(effects, step=step)

    worker = start(watched)
    tagged = "a fox <lora:ink:te=0.2@1,0.9@2:unet=0.8@1,-0.5@3>"
    pictures = []
    for prompt in ("a fox", tagged, "a fox"):
        job_id = rig.add_job(prompt, **asked)
        shown.append(job_id)
        rig.assign(job_id, worker.id)
        job = rig.wait_for(job_id, "succeeded", "failed")
        assert (job.state, job.error_message) == ("succeeded", None)
        (image,) = rig.images(job_id)
        assert (image.width, image.height, image.seed) == (32, 64, 7)
        if info.video:
            assert (image.media_type, image.frames, image.fps) == ("video/webm", 9, 8.0)
        pictures.append(stills(rig.picture(job_id)))
        assert Image.open(BytesIO(redis.get(f"farm:preview:{job_id}"))).format == "WEBP"
    assert pictures[0] != pictures[1]
    assert pictures[0] == pictures[2]


def stills(data: bytes) -> list[bytes]:
    """Pixels of a picture, or of each frame of a video."""
    if data.startswith(b"\x89PNG"):
        return [Image.open(BytesIO(data)).tobytes()]
    with av.open(BytesIO(data)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def test_progress_and_previews_are_told(rig: Rig, start: Start, redis: Redis) -> None:
    gate = Gate(at=4)
    worker = start(gate)
    job_id = rig.add_job(steps=6)
    rig.assign(job_id, worker.id)
    # a job that has ended shows no preview any more, and the one who tells is another thread
    rig.wait_until(lambda: any(event.data.get("preview") for event in told(redis, "jobs")))
    gate.open.set()
    rig.wait_for(job_id, "succeeded")
    rig.wait_until(lambda: any(event.data["state"] == "succeeded" for event in told(redis, "jobs")))

    jobs = told(redis, "jobs")
    assert max(event.data["preview"] for event in jobs) > 0
    assert all(event.owner == rows.OWNER and event.type == "job" for event in jobs)
    assert {"id", "state", "stage", "step", "steps", "worker", "preview"} <= set(jobs[-1].data)
    seen = [event.data["step"] for event in jobs]
    assert seen == sorted(seen)
    assert jobs[-1].data["step"] == 6
    assert Image.open(BytesIO(redis.get(f"farm:preview:{job_id}"))).format == "WEBP"
    assert [event.data["state"] for event in told(redis, "workers")] == ["up"]
    assert told(redis, "workers")[0].owner == ""


def told(redis: Redis, topic: str) -> list[events.Event]:
    return [event for _, event in events.read(redis, "0-0", 10) if event.topic == topic]


def test_adapters_change_the_picture_are_kept_hot_and_leave_no_trace(rig: Rig, start: Start) -> None:
    worker = start(cache_dir=rig.folder / "cold", lora_debug=True)
    ink = rig.add_adapter("ink")
    plain, inked, again, plain_again = (
        rig.add_job(), rig.add_job("a fox <lora:ink:0.8>"), rig.add_job("a fox <lora:ink:0.8>"), rig.add_job(),
    )  # fmt: skip
    for job_id in (plain, inked, again, plain_again):
        rig.assign(job_id, worker.id)
        assert rig.wait_for(job_id, "succeeded", "failed").error_message is None

    pixels = [
        Image.open(BytesIO(rig.picture(job_id))).tobytes() for job_id in (plain, inked, again, plain_again)
    ]
    assert pixels[0] != pixels[1]
    assert pixels[1] == pixels[2]
    assert pixels[0] == pixels[3]
    first, second = rig.attempt(inked).timings, rig.attempt(again).timings
    assert (first["cache_hits"], first["cache_misses"], first["bytes_fetched"]) == (0, 1, ink["size"])
    assert (second["cache_hits"], second["cache_misses"], second["bytes_fetched"]) == (1, 0, 0)
    assert first["model_hit"]
    report = worker.report()
    assert report.models == (rig.model_key,)
    assert report.adapters == (ink["sha256"],)
    assert ink["sha256"] in report.disk
    assert report.seconds_per_step["key-3"] > 0
    assert report.load_seconds[rig.model_key] > 0


def test_a_damaged_download_is_fetched_again_and_the_job_succeeds(rig: Rig, start: Start) -> None:
    ink = rig.add_adapter("ink")
    fetched: list[str] = []

    def damaging(effects: Effects) -> Effects:
        def fetch(sha256: str, path: Path) -> None:
            effects.fetch(sha256, path)
            fetched.append(sha256)
            if fetched.count(sha256) == 1:
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(data)

        return dataclasses.replace(effects, fetch=fetch)

    worker = start(damaging, cache_dir=rig.folder / "cold")
    job_id = rig.add_job("a fox <lora:ink:0.8>")
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded", "failed").state == "succeeded"
    assert fetched.count(ink["sha256"]) == 2


def test_a_file_that_is_damaged_in_the_store_fails_the_job_and_names_it(rig: Rig, start: Start) -> None:
    ink = rig.add_adapter("ink", seed=77)  # a file of its own, for it is spoilt in the store for good
    rig.store.put_bytes(f"blobs/{ink['sha256'][:2]}/{ink['sha256']}", b"x" * ink["size"])
    worker = start()
    job_id = rig.add_job("a fox <lora:ink:0.8>")
    rig.assign(job_id, worker.id)
    job = rig.wait_for(job_id, "failed")
    assert job.error_code == "damaged_file"
    assert job.error_message is not None
    assert ink["sha256"] in job.error_message


def test_messages_that_come_twice_late_or_for_nobody_change_nothing(rig: Rig, start: Start) -> None:
    worker = start()
    job_id, other = rig.add_job(), rig.add_job()
    attempt = rig.assign(job_id, worker.id)
    for stale in (attempt, attempt, attempt + 1, 0):
        rig.send(worker.id, job_id, stale)
    rig.send(worker.id, "job_unknown", 1)
    rig.wait_for(job_id, "succeeded")
    rig.send(worker.id, job_id, attempt)
    rig.assign(other, worker.id)
    rig.wait_for(other, "succeeded")
    assert rows.events_of(rig.sessions, job_id).count("claim") == 1
    assert rows.image_count(rig.sessions, job_id) == 1


def test_without_a_message_the_look_into_sql_finds_the_job(rig: Rig, start: Start) -> None:
    worker = start(poll_seconds=0.2)
    job_id = rig.add_job()
    rig.assign(job_id, worker.id, send=False)
    assert rig.wait_for(job_id, "succeeded", "failed").state == "succeeded"


def test_without_redis_jobs_still_run_and_the_consumer_waits(rig: Rig, start: Start) -> None:
    nobody = type(rig.settings.redis_url)("redis://127.0.0.1:1/0")
    worker = start(poll_seconds=0.1, redis_url=nobody)
    consumer = worker._consumer._controller
    for _ in range(DEAF_LOOKS + 2):
        job_id = rig.add_job(steps=1)
        rig.assign(job_id, worker.id, send=False)
        assert rig.wait_for(job_id, "succeeded", "failed").state == "succeeded"
    # another one would wait as well, and so would each one after it
    assert worker._consumer._controller is consumer


class Gate:
    """Holds the device at a step until it is opened."""

    def __init__(self, at: int):
        self.at = at
        self.reached = threading.Event()
        self.open = threading.Event()
        self.steps = 0

    def __call__(self, effects: Effects) -> Effects:
        def step(machine: Any, states: Any) -> None:
            if self.steps == self.at:
                self.reached.set()
                assert self.open.wait(60)
            self.steps += 1
            effects.step(machine, states)

        return dataclasses.replace(effects, step=step)


def test_a_cancel_ends_the_job_within_a_step_and_the_next_one_runs(rig: Rig, start: Start) -> None:
    gate = Gate(at=2)
    worker = start(gate)
    job_id, following = rig.add_job("a fox", steps=50), rig.add_job()
    rig.assign(job_id, worker.id)
    assert gate.reached.wait(60)
    rig.assign(following, worker.id)
    with rig.sessions.begin() as session:
        control.cancel(session, rows.OWNER, job_id, rows.NOW)
    rig.wait_until(lambda: worker.hands._held[job_id].cancel)
    gate.open.set()

    assert rig.wait_for(job_id, "cancelled", "succeeded").state == "cancelled"
    assert rig.attempt(job_id).outcome == "cancelled"
    assert rows.image_count(rig.sessions, job_id) == 0
    rig.wait_for(following, "succeeded")
    # at most one step after the one that was under way, then three of the next job
    assert gate.steps <= 3 + 3


def test_a_lost_job_is_dropped_and_its_late_result_discarded(rig: Rig, start: Start) -> None:
    gate = Gate(at=1)
    worker = start(gate)
    job_id = rig.add_job()
    attempt = rig.assign(job_id, worker.id)
    assert gate.reached.wait(60)
    with rig.sessions.begin() as session:
        seen = rig.job(job_id).hb_seq
        while not rows.attempts.lose(session, job_id, attempt, seen, crash_limit=3, now=rows.NOW):
            seen += 1
    rig.wait_until(lambda: worker.hands._held[job_id].lost)
    gate.open.set()
    rig.wait_until(lambda: not worker.hands.current())
    job = rig.job(job_id)
    assert (job.state, job.crash_count) == ("queued", 1)
    assert rows.image_count(rig.sessions, job_id) == 0


def test_a_job_that_had_to_wait_for_a_lost_one_starts_when_that_has_ended(rig: Rig, start: Start) -> None:
    gate = Gate(at=1)
    worker = start(gate, poll_seconds=600.0)
    lost, other = rig.add_job(), rig.add_job()
    with rig.sessions.begin() as session:
        session.get_one(Job, lost).crash_count = 1
    rig.assign(lost, worker.id)
    assert gate.reached.wait(60)
    rig.assign(other, worker.id)
    rig.wait_until(lambda: worker._consumer.messages == 2)
    gate.open.set()
    assert rig.wait_for(lost, "succeeded", "failed").state == "succeeded"
    assert rig.wait_for(other, "succeeded", "failed").attempt == 1


def test_a_stopping_worker_finishes_what_fits(rig: Rig, start: Start) -> None:
    gate = Gate(at=1)
    worker = start(gate)
    job_id = rig.add_job()
    rig.assign(job_id, worker.id)
    assert gate.reached.wait(60)
    worker.hands.leave_within(60)
    gate.open.set()
    assert worker.stop()
    assert rig.job(job_id).state == "succeeded"


def test_a_stopping_worker_hands_back_what_does_not_fit(rig: Rig, start: Start) -> None:
    gate = Gate(at=3)
    worker = start(gate)
    running, prepared, assigned = rig.add_job(steps=5_000), rig.add_job(), rig.add_job()
    rig.assign(running, worker.id)
    assert gate.reached.wait(60)
    rig.assign(prepared, worker.id)
    rig.assign(assigned, worker.id)
    rig.wait_until(lambda: len(worker.hands.current()) == 2)
    worker.hands.leave_within(20)
    gate.open.set()
    assert worker.stop()
    for job_id in (running, prepared, assigned):
        job = rig.job(job_id)
        assert (job.state, job.crash_count, job.retry_count) == ("queued", 0, 0), job_id
    assert rig.attempt(running).outcome == "drained"
    with rig.sessions() as session:
        row = session.get(WorkerRow, worker.id)
        assert row is not None
        assert row.state == "gone"


def test_an_operators_drain_finishes_what_is_held_and_takes_nothing(rig: Rig, start: Start) -> None:
    worker = start(poll_seconds=0.2)
    with rig.sessions.begin() as session:
        rows.workers.drain(session, worker.id)
    rig.wait_until(lambda: worker.hands.draining)
    job_id = rig.add_job()
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "queued").crash_count == 0
    with rig.sessions.begin() as session:
        rows.workers.resume(session, worker.id)
    rig.wait_until(lambda: not worker.hands.draining)
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded").result_attempt == 2


def test_a_worker_that_becomes_idle_wakes_the_schedulers(rig: Rig, start: Start, redis: Redis) -> None:
    worker = start()
    job_id = rig.add_job()
    rig.assign(job_id, worker.id)
    rig.wait_for(job_id, "succeeded")
    rig.wait_until(lambda: redis.xlen(BELL) == 1)


def test_an_operators_reload_loads_the_model_afresh(rig: Rig, start: Start) -> None:
    rig.add_adapter("ink")
    worker = start()

    def render() -> tuple[bool, bytes]:
        job_id = rig.add_job("a fox <lora:ink:1>")
        rig.assign(job_id, worker.id)
        rig.wait_for(job_id, "succeeded")
        return bool(rig.attempt(job_id).timings["model_hit"]), rig.picture(job_id)

    assert render()[0] is False
    hot, before = render()
    assert hot
    with rig.sessions.begin() as session:
        rows.workers.reload(session, worker.id)
    rig.wait_until(lambda: not worker.report().models)
    rig.wait_until(lambda: not worker.report().adapters)
    hot, after = render()
    assert not hot
    assert Image.open(BytesIO(after)).tobytes() == Image.open(BytesIO(before)).tobytes()


def test_a_store_that_is_away_for_a_while_costs_time_only(rig: Rig, start: Start) -> None:
    calls = {"fetch": 0, "upload": 0}

    def flaky(effects: Effects) -> Effects:
        def fetch(sha256: str, path: Path) -> None:
            calls["fetch"] += 1
            if calls["fetch"] <= 2:
                raise Transient("the store is unreachable")
            effects.fetch(sha256, path)

        def upload(key: str, data: bytes, media_type: str) -> str:
            calls["upload"] += 1
            if calls["upload"] <= 2:
                raise Transient("the store is unreachable")
            return effects.upload(key, data, media_type)

        return dataclasses.replace(effects, fetch=fetch, upload=upload)

    worker = start(flaky, cache_dir=rig.folder / "cold")
    job_id = rig.add_job()
    rig.assign(job_id, worker.id)
    job = rig.wait_for(job_id, "succeeded", "failed")
    assert (job.state, job.retry_count) == ("succeeded", 0)


def test_out_of_memory_splits_the_batch_once(rig: Rig, start: Start) -> None:
    sizes: list[int] = []

    def tight(effects: Effects) -> Effects:
        def step(machine: Any, states: Any) -> None:
            (state,) = states
            sizes.append(len(state.generators))
            if len(state.generators) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB.")
            effects.step(machine, states)

        return dataclasses.replace(effects, step=step)

    worker = start(tight)
    job_id, alone = rig.add_job(count=4, steps=2), rig.add_job(seed=9, steps=2)
    rig.assign(job_id, worker.id)
    rig.wait_for(job_id, "succeeded", "failed")
    rig.assign(alone, worker.id)
    rig.wait_for(alone, "succeeded")
    assert [image.seed for image in rig.images(job_id)] == [7, 8, 9, 10]
    assert sizes == [4, 2, 2, 2, 2, 1, 1]


def test_out_of_memory_twice_fails_in_words_and_the_next_job_runs(rig: Rig, start: Start) -> None:
    def tight(effects: Effects) -> Effects:
        def step(machine: Any, states: Any) -> None:
            if states[0].spec.steps == 5:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB.")
            effects.step(machine, states)

        return dataclasses.replace(effects, step=step)

    worker = start(tight)
    job_id, following = rig.add_job(steps=5), rig.add_job()
    rig.assign(job_id, worker.id)
    rig.assign(following, worker.id)
    job = rig.wait_for(job_id, "failed")
    assert job.error_code == "out_of_memory"
    assert job.error_message is not None
    assert "64×64 needed one allocation of 1.5 GB, cpu has" in job.error_message
    assert rig.wait_for(following, "succeeded")


def test_a_database_that_is_away_delays_the_record_only(rig: Rig, start: Start) -> None:
    tries: list[int] = []

    def away(effects: Effects) -> Effects:
        def succeed(*given: Any) -> bool:
            tries.append(1)
            if len(tries) == 1:
                raise OperationalError("update jobs", {}, Exception("connection refused"))
            done = effects.succeed(*given)
            if len(tries) == 2:
                # the commit came through, its answer did not
                raise OperationalError("commit", {}, Exception("connection reset"))
            return done

        return dataclasses.replace(effects, succeed=succeed)

    worker = start(away)
    job_id = rig.add_job()
    rig.assign(job_id, worker.id)
    rig.wait_for(job_id, "succeeded")
    rig.wait_until(lambda: not worker.hands.current())
    assert len(tries) == 3
    assert rows.image_count(rig.sessions, job_id) == 1
    assert rows.events_of(rig.sessions, job_id).count("succeed") == 1


def test_a_worker_that_was_given_up_drops_its_jobs_and_joins_again(rig: Rig, start: Start) -> None:
    gate = Gate(at=1)
    worker = start(gate)
    job_id = rig.add_job()
    rig.assign(job_id, worker.id)
    assert gate.reached.wait(60)

    def give_up() -> bool:
        with rig.sessions.begin() as session:
            row = session.get(WorkerRow, worker.id)
            assert row is not None
            return rows.workers.mark_gone(session, worker.id, row.seq, rows.NOW)

    rig.wait_until(give_up)
    rig.wait_until(lambda: worker.hands._held[job_id].lost)
    gate.open.set()
    rig.wait_until(lambda: not worker.hands.current())
    assert rows.image_count(rig.sessions, job_id) == 0
    assert rig.job(job_id).state == "queued"
    again = rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded").result_attempt == again


def test_a_deaf_consumer_is_replaced(rig: Rig, start: Start) -> None:
    worker = start(poll_seconds=0.1)
    deaf = worker._consumer
    deaf._controller.stop()
    for _ in range(3):
        job_id = rig.add_job(steps=1)
        rig.assign(job_id, worker.id, send=False)
        rig.wait_for(job_id, "succeeded")
    rig.wait_until(lambda: deaf._thread is not None and deaf._thread.is_alive())
    seen = deaf.messages
    job_id = rig.add_job(steps=1)
    rig.assign(job_id, worker.id)
    rig.wait_for(job_id, "succeeded")
    rig.wait_until(lambda: deaf.messages > seen)


@pytest.mark.timeout(400)
def test_sigterm_hands_back_and_ends(rig: Rig) -> None:
    script = "from farm.settings import load_settings; from farm.worker.main import run; run(load_settings())"
    environment = environment_of(rig.settings.model_copy(update={"drain_seconds": 3.0}))
    with (rig.folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        # reading torch and diffusers takes a minute where many want the disk
        rig.wait_until(lambda: up(rig) or child.poll() is not None, seconds=240)
        assert child.poll() is None, (rig.folder / "log").read_text()[-2000:]
        job_id = rig.add_job(steps=3_000)
        rig.assign(job_id, up(rig)[0])
        rig.wait_until(lambda: rig.job(job_id).step > 0)

        child.send_signal(signal.SIGTERM)

        assert child.wait(60) == 0
        assert (rig.job(job_id).state, rig.job(job_id).crash_count) == ("queued", 0)
        assert not up(rig)
    finally:
        child.kill()
        child.wait()


def up(rig: Rig) -> list[str]:
    with rig.sessions() as session:
        return list(session.scalars(select(WorkerRow.id).where(WorkerRow.state == "up")))
