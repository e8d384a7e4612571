"""Workers are killed, stopped and cut off at every place where they touch the world."""

from __future__ import annotations

import signal
from io import BytesIO

import pytest
from PIL import Image as Pictures
from sqlalchemy import select

from farm.db.models import Worker as WorkerRow
from farm.jobs import control, views
from farm.store import keys
from tests.chaos.fleet import UNHURRIED, Fault, Fleet, await_stopped, kill
from tests.support import jobs as rows
from tests.support.worker import Rig

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite alone: what differs between databases is tested with the statements themselves."""
    return sqlite_url


def up(rig: Rig, name: str) -> str:
    """The id of a worker once it is up."""
    found: list[str] = []

    def look() -> bool:
        with rig.sessions() as session:
            found[:] = session.scalars(
                select(WorkerRow.id).where(WorkerRow.name.startswith(name), WorkerRow.state == "up")
            ).all()
        return bool(found)

    rig.wait_until(look, lambda: name)
    return found[0]


def pixels(rig: Rig, job_id: str) -> bytes:
    return Pictures.open(BytesIO(rig.picture(job_id))).tobytes()


PLACES = (
    Fault("claim", "after"),
    Fault("read_job", "after"),
    Fault("load_model", "before"),
    Fault("step", "before"),
    Fault("step", "after", call=2),
    Fault("upload", "before"),
    Fault("upload", "after"),
    Fault("succeed", "before"),
    Fault("succeed", "after"),
)


def test_g01_g19_a_worker_killed_at_any_place_costs_no_job_and_no_pixel(fleet: Fleet) -> None:
    rig = fleet.rig
    doomed = {fault: fleet.worker(f"doomed-{place}", fault) for place, fault in enumerate(PLACES)}
    for place in range(len(PLACES)):
        (job,) = fleet.submit()
        rig.assign(job, up(rig, f"doomed-{place}"))
    for process in doomed.values():
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, fleet.logs()
    # a job that was lost waits until it has its worker to itself; that costs no attempt
    fleet.scheduler(claim_seconds=60)
    # a pass that is shared rounds otherwise
    fleet.worker("healthy", batch_limit=1)
    fleet.finished()
    attempts = {fault: rig.job(job).attempt for fault, job in zip(doomed, fleet.jobs, strict=True)}
    # what was recorded before its worker died is not rendered again; all else is, once
    assert attempts == {fault: 1 if fault == Fault("succeed", "after") else 2 for fault in PLACES}
    assert len({pixels(rig, job) for job in fleet.jobs}) == 1


def test_g03_a_worker_stopped_past_its_lease_changes_nothing_when_it_wakes(fleet: Fleet) -> None:
    rig = fleet.rig
    sleepers = [
        fleet.worker("sleeper-1", Fault("step", act="stop", call=2)),
        fleet.worker("sleeper-2", Fault("succeed", act="stop")),
    ]
    for process in sleepers:
        # at the worker that takes them over they last for seconds
        (job,) = fleet.submit(steps=40)
        rig.assign(job, up(rig, process.name))
        await_stopped(process, fleet)
    stepping, recording = fleet.jobs
    fleet.scheduler()
    healthy = fleet.worker("healthy", Fault("step", act="slow"))
    # they wake while another attempt runs, so that only the number of the attempt tells them from it
    rig.wait_until(lambda: (job := rig.job(recording)).state == "running" and job.attempt > 1, fleet.logs)
    for process in sleepers:
        kill(process, signal.SIGCONT)
    fleet.finished_jobs("succeeded")
    assert all((rig.job(job).result_attempt or 0) > 1 for job in fleet.jobs)
    # the pictures of the attempt that was stopped right before its record, beside those of the result
    assert rig.store.exists(keys.result(rows.OWNER, recording, 1, 0, "png"))
    kill(healthy)
    # they live, join again and take new work
    fleet.submit(4)
    fleet.finished()
    assert [rig.attempt(job, 1).outcome for job in (stepping, recording)] == ["lost", "lost"]
    assert all(process.is_alive() for process in sleepers)


def test_g08_a_job_that_kills_every_worker_fails_alone(fleet: Fleet) -> None:
    rig = fleet.rig
    # a worker that starts again under its name gives up what it held before: nothing has to expire
    fleet.scheduler(**UNHURRIED)
    poisoned = Fault("step", seed=666)
    (poison,) = fleet.submit(seed=666, steps=2)
    good = fleet.submit(12, steps=2)
    workers = {name: fleet.worker(name, poisoned) for name in ("one", "two")}
    deaths = 0
    ended = lambda: all(rig.job(job).finished_at is not None for job in fleet.jobs)  # noqa: E731

    def supervise() -> bool:
        nonlocal deaths
        for name, process in workers.items():
            if not process.is_alive():
                deaths += 1
                workers[name] = fleet.worker(name, poisoned)
        return ended()

    rig.wait_until(supervise, fleet.logs, 300)
    fleet.finished("succeeded", "failed")
    job = rig.job(poison)
    assert (job.state, job.error_code, job.crash_count) == ("failed", "quarantined", 3)
    assert "lost 3 times" in str(job.error_message)
    assert {rig.job(job).state for job in good} == {"succeeded"}
    assert deaths == 3


def test_g08_a_worker_that_kills_every_job_is_set_apart(fleet: Fleet) -> None:
    rig = fleet.rig
    fleet.scheduler()
    fleet.worker("good", Fault("step", act="slow"))
    broken = Fault("step")
    bad = [fleet.worker("bad", broken)]

    def state() -> str:
        with rig.sessions() as session:
            return {view["name"]: str(view["state"]) for view in views.worker_views(session)}.get("bad", "")

    def supervise() -> bool:
        if not bad[0].is_alive():
            bad[0] = fleet.worker("bad", broken)
        if sum(rig.job(job).state == "queued" for job in fleet.jobs) < 3:
            fleet.submit(3, steps=2)
        return state() == "suspect"

    rig.wait_until(supervise, fleet.logs, 90)
    # repaired, it proves itself with one job
    if bad[0].is_alive():
        kill(bad[0])
        bad[0].join()
    fleet.worker("bad")
    fleet.submit(3, steps=2)
    rig.wait_until(lambda: state() == "up", fleet.logs)
    fleet.finished()
    # none of the jobs was taken for poison, and none was lost there twice
    assert max(rig.job(job).crash_count for job in fleet.jobs) == 1


def test_g09_a_rolling_restart_under_load_fails_and_counts_nothing(fleet: Fleet) -> None:
    rig = fleet.rig
    fleet.scheduler(**UNHURRIED)
    slow = Fault("step", act="slow")
    old = {name: fleet.worker(name, slow) for name in ("one", "two")}
    ids = {up(rig, name): name for name in old}
    busy: list[str] = []

    def look() -> bool:
        running = [job for job in map(rig.job, fleet.jobs) if job.state == "running"]
        busy[:] = [name for job in running if (name := ids[job.worker_id or ""]) in old]
        return bool(busy)

    while old:
        fleet.submit(4, steps=15)
        rig.wait_until(look, fleet.logs)
        process = old.pop(busy[0])
        kill(process, signal.SIGTERM)
        process.join(60)
        assert process.exitcode == 0, fleet.logs()
        fleet.worker(process.name)
    fleet.finished()
    assert {(rig.job(job).crash_count, rig.job(job).retry_count) for job in fleet.jobs} == {(0, 0)}


def test_g09_a_second_sigterm_is_no_worse_than_a_kill(fleet: Fleet) -> None:
    rig = fleet.rig
    fleet.scheduler()
    # more than a dozen seconds of work, all of which fit the drain
    hasty = fleet.worker("hasty", Fault("step", act="slow"), drain_seconds=600)
    (job,) = fleet.submit(steps=120)
    rig.wait_until(lambda: rig.job(job).step > 0, fleet.logs)
    kill(hasty, signal.SIGTERM)
    # until the first one was heard; without it a second one is the first
    rig.wait_until(lambda: fleet.logged("worker_stopping"), fleet.logs)
    kill(hasty, signal.SIGTERM)
    hasty.join(30)
    assert hasty.exitcode == 130, fleet.logs()
    fleet.worker("other")
    fleet.finished()


def test_g13_a_cancel_at_any_place_leaves_no_picture(fleet: Fleet) -> None:
    rig = fleet.rig
    places = (
        Fault("read_job", "after", "stop"),
        Fault("step", "before", "stop", 2),
        Fault("upload", "after", "stop"),
    )
    slow = Fault("step", act="slow")
    workers = {fault: fleet.worker(f"asked-{place}", fault, slow) for place, fault in enumerate(places)}
    for process in workers.values():
        # far more work than passes between two heartbeats, but for the one that has sampled already
        (job,) = fleet.submit(count=2, steps=4 if process.name == "asked-2" else 150)
        rig.assign(job, up(rig, process.name))
    for process in workers.values():
        await_stopped(process, fleet)
    for job in fleet.jobs:
        with rig.sessions.begin() as session:
            assert control.cancel(session, rows.OWNER, job, rows.NOW) == "running"
    for process in workers.values():
        kill(process, signal.SIGCONT)
    # the one that was between its uploads may have been quicker than its heartbeat: then its result stands
    fleet.finished("cancelled", "succeeded")
    assert [rig.job(job).state for job in fleet.jobs][:2] == ["cancelled"] * 2
    # each device is free for the next one
    for process in workers.values():
        (job,) = fleet.submit()
        rig.assign(job, up(rig, process.name))
        rig.wait_for(job, "succeeded")
