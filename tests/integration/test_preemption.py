"""A real worker and the real scheduler: an interactive job comes while bulk work runs, and starts at once."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy import update

from farm.clock import SystemClock
from farm.db.models import Job
from farm.scheduler import preempt
from farm.scheduler.loop import Effects, Scheduler, Timers
from tests.integration.test_worker_resume import Halt, details, pixels
from tests.support import jobs as rows
from tests.support.worker import Rig, Start


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def scheduler(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """It leads at once, and its rounds are the test's. The tiny model's jobs would be too short to give way."""
    monkeypatch.setattr(preempt, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(preempt, "HANDOVER_SECONDS", 0.0)
    return Scheduler(
        rig.sessions,
        Effects(
            send=rig.send,
            wait=lambda seconds: None,
            tell=lambda *told: None,
            deliver=lambda *given: None,
            aside=lambda work: None,
            sweep=lambda now: None,
        ),
        SystemClock(),
        Timers(round_seconds=1, lease_seconds=600, leader_lease_seconds=0, claim_seconds=600),
        holder="test",
        window=2,
        crash_limit=3,
    )


def add(rig: Rig, priority: int, **spec: object) -> str:
    job_id = rig.add_job("a fox <lora:ink:0.2@1,0.9@6>", **spec)
    with rig.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(priority=priority))
    return job_id


def test_bulk_work_gives_way_and_goes_on_bit_for_bit(rig: Rig, start: Start, scheduler: Scheduler) -> None:
    rig.add_adapter("ink", scale=3.0)
    halt = Halt()
    # a pass that is shared rounds otherwise
    worker = start(halt, worker_tags="A100, studio", batch_limit=1)
    scheduler.round()
    halt.arm(at=6)
    bulk = [add(rig, 2, steps=16, seed=1)]
    assert scheduler.round() == 1
    assert halt.reached.wait(20)
    bulk.append(add(rig, 2, steps=16, seed=2))
    assert scheduler.round() == 1
    # both are in the worker's hands, and the leader knows how far the first one is
    rig.wait_until(lambda: rig.job(bulk[0]).step == 6 and rig.job(bulk[1]).state == "running")
    urgent = add(rig, 0, steps=3, seed=9)
    later = add(rig, 2, steps=3, seed=3)
    assert scheduler.round() == 1
    assert rig.job(urgent).worker_id == worker.id
    rig.wait_until(lambda: worker.hands._held[bulk[0]].give_way)
    # nobody is asked twice for one
    asked = rig.job(bulk[0]).preempted_at
    assert scheduler.round() == 0
    halt.open.set()
    assert rig.wait_for(urgent, "succeeded", "failed").state == "succeeded"
    assert [rig.job(job).state for job in (*bulk, later)] == ["queued"] * 3
    assert [rig.job(job).crash_count for job in bulk] == [0, 0]
    assert rig.job(bulk[0]).preempted_at == asked
    assert rig.job(bulk[0]).checkpoint_step == 7
    assert details(rig, bulk[0], "preempt") == ["an interactive job is to start on test"]
    assert details(rig, bulk[0], "hand_back") == ["gave way to a more urgent job"]
    # the one that had not begun comes back without a step lost
    assert details(rig, bulk[1], "resume") == []
    assert rig.attempt(bulk[1]).outcome == "preempted"

    rig.wait_until(lambda: not worker.hands.current())
    calm = [add(rig, 2, steps=16, seed=seed) for seed in (1, 2)]
    everything = (*bulk, later, *calm)
    while any(rig.job(job).state != "succeeded" for job in everything):
        scheduler.round()
        rig.wait_until(lambda: not worker.hands.current())
        assert "failed" not in {rig.job(job).state for job in everything}
    assert details(rig, bulk[0], "resume") == ["went on from step 7 of 16"]
    report = worker.report()
    assert report.tags == ("a100", "studio")
    assert report.adapter_seconds
    assert [pixels(rig, job) for job in bulk] == [pixels(rig, job) for job in calm]


def test_an_interactive_job_that_stands_behind_a_long_one_gets_the_device(
    rig: Rig, start: Start, scheduler: Scheduler
) -> None:
    """There was room for it in the worker's window, so it needs no other's place: only the device."""
    rig.add_adapter("ink")
    halt = Halt()
    worker = start(halt)
    scheduler.round()
    halt.arm(at=6)
    bulk = add(rig, 2, steps=30)
    scheduler.round()
    assert halt.reached.wait(20)
    rig.wait_until(lambda: rig.job(bulk).step == 6)
    urgent = add(rig, 0, steps=3, seed=9)
    assert scheduler.round() == 1
    rig.wait_until(lambda: worker.hands._held[bulk].give_way)
    halt.open.set()
    assert rig.wait_for(urgent, "succeeded", "failed").state == "succeeded"
    assert rig.job(bulk).state == "queued"


def test_what_cannot_be_saved_is_not_asked(rig: Rig, start: Start, scheduler: Scheduler) -> None:
    with rig.sessions.begin() as session:
        session.execute(update(rows.Model).values(family="auraflow"))
    report = dataclasses.replace(rows.WorkerReport(), seconds_per_step={"key-30": 10.0})
    worker = rows.add_worker(rig.sessions, "other", report)
    bulk = rows.add_job(rig.sessions, priority=2, batch_key="key-30", steps=30, model_id=rig.model_id)
    rows.start(rig.sessions, bulk, worker)
    with rig.sessions.begin() as session:
        rows.attempts.heartbeat(session, worker, [(bulk, 1, "sampling", 2)])
    rows.add_job(rig.sessions, priority=0, batch_key="key-30", model_id=rig.model_id)
    scheduler.round()
    scheduler.round()
    assert rig.job(bulk).preempted_at is None
    with rig.sessions.begin() as session:
        session.execute(update(rows.Model).values(family="sd1"))
    scheduler.round()
    assert rig.job(bulk).preempted_at is not None
