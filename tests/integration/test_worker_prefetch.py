"""Files of the job that a worker is expected to get next are there before it comes, and nothing in hand pays for that."""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
from pathlib import Path

import pytest

from farm.db.models import Model
from farm.jobs import workers
from farm.worker import prefetch
from farm.worker.effects import Effects
from farm.worker.worker import Worker
from tests.support.worker import Rig, Start


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: what differs between databases is tested with the statements themselves."""
    return sqlite_url


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "PART_BYTES", 16 * 1024)


class Wire:
    """The store's answers: what was asked for in which order; the second part of a file can be held back."""

    def __init__(self, *, hold: bool = False):
        self.asked: list[tuple[str, str]] = []
        self.held = threading.Event()
        self.free = threading.Event()
        self.hold = hold

    def __call__(self, effects: Effects) -> Effects:
        def fetch_part(sha256: str, start: int, length: int) -> bytes:
            self.asked.append(("part", sha256))
            if start and self.hold:
                self.hold = False
                self.held.set()
                assert self.free.wait(30)
            return effects.fetch_part(sha256, start, length)

        def fetch(sha256: str, path: Path) -> None:
            self.asked.append(("whole", sha256))
            effects.fetch(sha256, path)
            self.asked.append(("end", sha256))

        return dataclasses.replace(effects, fetch_part=fetch_part, fetch=fetch)

    def ways(self, sha256: str) -> set[str]:
        return {way for way, of in self.asked if of == sha256}


def order(rig: Rig, worker: Worker, job_id: str | None) -> None:
    """As the leader's round does, and wait until the worker has heard it."""
    with rig.sessions.begin() as session:
        workers.note_next(session, {worker.id: job_id} if job_id else {})
    rig.wait_until(lambda: worker._prefetcher._order == job_id)


def left_over(worker: Worker) -> list[str]:
    return [path.name for path in worker._disk._tmp.rglob("*") if path.name != "lock"]


def test_an_expected_job_finds_everything_fetched_and_parsed(rig: Rig, start: Start) -> None:
    ink = rig.add_adapter("ink", seed=101)
    wire = Wire()
    worker = start(wire, cache_dir=rig.folder / "cold")
    job_id = rig.add_job("a fox <lora:ink:0.8>")
    order(rig, worker, job_id)
    rig.wait_until(lambda: ink["sha256"] in worker.report().adapters)
    with rig.sessions() as session:
        manifest = session.get_one(Model, rig.model_id).manifest
    assert all(worker._disk.holds(row["sha256"], row["size"]) for row in manifest)
    assert {rig.model_key, ink["sha256"]} <= set(worker.report().disk)
    assert rig.job(job_id).state == "queued"
    total = ink["size"] + sum({row["sha256"]: row["size"] for row in manifest}.values())
    assert worker.report().bytes_prefetched == total

    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded", "failed").error_message is None
    timings = rig.attempt(job_id).timings
    assert (timings["bytes_fetched"], timings["prefetched"]) == (0, total)
    assert (timings["cache_hits"], timings["cache_misses"]) == (1, 0)
    assert not any(way == "whole" for way, _ in wire.asked)
    assert worker.report().prefetch_hits == 1 + len({row["sha256"] for row in manifest})


def test_another_order_ends_the_fetch_of_what_is_not_expected_any_more(rig: Rig, start: Start) -> None:
    ink, wash = rig.add_adapter("ink", seed=102), rig.add_adapter("wash", seed=103)
    wire = Wire(hold=True)
    worker = start(wire)
    first, second = rig.add_job("a fox <lora:ink:0.8>"), rig.add_job("a fox <lora:wash:0.8>")
    order(rig, worker, first)
    assert wire.held.wait(30)
    order(rig, worker, second)
    wire.free.set()
    rig.wait_until(lambda: wash["sha256"] in worker.report().adapters)
    assert not worker._disk.holds(ink["sha256"], ink["size"])
    assert left_over(worker) == []
    # nothing is expected, and a worker that takes no jobs expects nothing
    order(rig, worker, None)


def test_an_order_that_needs_the_same_file_does_not_end_its_fetch(rig: Rig, start: Start) -> None:
    ink = rig.add_adapter("ink", seed=104)
    wire = Wire(hold=True)
    worker = start(wire)
    first, second = rig.add_job("a fox <lora:ink:0.8>"), rig.add_job("a fox <lora:ink:0.3>")
    order(rig, worker, first)
    assert wire.held.wait(30)
    order(rig, worker, second)
    wire.free.set()
    rig.wait_until(lambda: ink["sha256"] in worker.report().adapters)
    assert worker.report().bytes_prefetched == ink["size"]


def test_a_job_in_hand_fetches_first(rig: Rig, start: Start) -> None:
    ink, wash = rig.add_adapter("ink", seed=105), rig.add_adapter("wash", seed=106)
    wire = Wire(hold=True)

    def slowly(effects: Effects) -> Effects:
        def fetch(sha256: str, path: Path) -> None:
            # the part in flight ends now, and the next one would begin
            wire.free.set()
            time.sleep(0.3)
            effects.fetch(sha256, path)

        return wire(dataclasses.replace(effects, fetch=fetch))

    worker = start(slowly)
    expected, given = rig.add_job("a fox <lora:ink:0.8>"), rig.add_job("a fox <lora:wash:0.8>")
    order(rig, worker, expected)
    assert wire.held.wait(30)
    rig.assign(given, worker.id)
    assert rig.wait_for(given, "succeeded", "failed").error_message is None
    rig.wait_until(lambda: ink["sha256"] in worker.report().adapters)
    begin, end = wire.asked.index(("whole", wash["sha256"])), wire.asked.index(("end", wash["sha256"]))
    assert end == begin + 1, wire.asked


def test_a_job_that_comes_in_the_middle_takes_over_what_is_there(rig: Rig, start: Start) -> None:
    ink = rig.add_adapter("ink", seed=107)
    wire = Wire(hold=True)
    worker = start(wire)
    job_id = rig.add_job("a fox <lora:ink:0.8>")
    order(rig, worker, job_id)
    assert wire.held.wait(30)
    rig.assign(job_id, worker.id)
    early = worker._prefetcher._traffic._early
    assert early is not None
    rig.wait_until(lambda: early.wanted)
    order(rig, worker, None)
    wire.free.set()
    assert rig.wait_for(job_id, "succeeded", "failed").error_message is None
    timings = rig.attempt(job_id).timings
    assert (timings["bytes_fetched"], timings["prefetched"]) == (0, ink["size"])
    assert wire.ways(ink["sha256"]) == {"part"}
    rig.wait_until(lambda: left_over(worker) == [])


def test_trouble_with_expected_jobs_is_not_told_and_a_job_fetches_itself(rig: Rig, start: Start) -> None:
    troubles = ("full", "damaged", "short", "away")
    entries = {name: rig.add_adapter(name, seed=110 + place) for place, name in enumerate(troubles)}
    names = {entry["sha256"]: name for name, entry in entries.items()}

    def failing(effects: Effects) -> Effects:
        def fetch_part(sha256: str, start: int, length: int) -> bytes:
            if names[sha256] == "full":
                raise OSError(errno.ENOSPC, "No space left on device", "tmp")
            if names[sha256] == "damaged":
                return b"x" * length
            if names[sha256] == "short":
                return b""
            return effects.fetch_part("0" * 64, start, length)

        return dataclasses.replace(effects, fetch_part=fetch_part)

    worker = start(failing)
    for name, entry in entries.items():
        job_id = rig.add_job(f"a fox <lora:{name}:0.8>")
        order(rig, worker, job_id)
        rig.wait_until(worker._prefetcher.idle)
        assert not worker._disk.holds(entry["sha256"], entry["size"])
        assert left_over(worker) == []
        assert rig.job(job_id).state == "queued"
    job_id = rig.add_job("a fox " + " ".join(f"<lora:{name}:0.2>" for name in troubles))
    rig.assign(job_id, worker.id)
    assert rig.wait_for(job_id, "succeeded", "failed").error_message is None
    timings = rig.attempt(job_id).timings
    total = sum(entry["size"] for entry in entries.values())
    assert (timings["bytes_fetched"], timings["prefetched"]) == (total, 0)
