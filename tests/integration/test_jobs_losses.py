"""Losses as the database keeps them: suspects, outages and pardons, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Attempt
from farm.jobs import attempts, losses, views, workers
from farm.jobs.reports import WorkerReport
from tests.support.jobs import NOW, add_job, add_worker, job_row, new_image, seed, start

Sessions = sessionmaker[Session]
LIMIT = 3


@pytest.fixture
def farm(sessions: Sessions) -> Sessions:
    seed(sessions)
    return sessions


def done(sessions: Sessions, action: Any) -> Any:
    with sessions.begin() as session:
        return action(session)


def crash(farm: Sessions, job: str, worker: str, minute: float, *, outage: bool = False) -> None:
    """The job begins on this worker at this minute, and is lost with it half a minute later."""
    attempt = start(farm, job, worker, NOW + timedelta(minutes=minute))
    ended = NOW + timedelta(minutes=minute + 0.5)
    assert done(
        farm, lambda s: attempts.lose(s, job, attempt, 0, crash_limit=LIMIT, now=ended, outage=outage)
    )


def suspects(farm: Sessions) -> set[str]:
    with farm() as session:
        return losses.suspects(session)


def test_g08_a_worker_is_suspect_after_three_jobs_and_until_one_succeeds(farm: Sessions) -> None:
    bad, good = (add_worker(farm, name) for name in ("bad", "good"))
    for minute in range(3):
        assert suspects(farm) == set()
        crash(farm, add_job(farm), bad, minute)
    assert suspects(farm) == {bad}
    with farm() as session:
        told = {view["name"]: (view["state"], view["reason"]) for view in views.worker_views(session)}
    assert told["good"] == ("up", "")
    assert told["bad"][0] == "suspect"
    assert "3 different jobs in a row" in told["bad"][1]
    for worker in (good, bad):
        probe = add_job(farm)
        attempt = start(farm, probe, worker, NOW + timedelta(minutes=9))
        assert done(farm, lambda s, p=probe, a=attempt: attempts.succeed(s, p, a, [new_image()], {}, NOW))
        assert suspects(farm) == ({bad} if worker == good else set())


def test_g08_a_job_is_given_up_only_after_it_was_tried_on_another_worker(farm: Sessions) -> None:
    first = add_worker(farm, "first")
    second = add_worker(farm, "second")
    job = add_job(farm)
    for minute in range(4):
        crash(farm, job, first, minute)
    assert (job_row(farm, job).state, job_row(farm, job).crash_count) == ("queued", 4)
    crash(farm, job, second, 5)
    assert (job_row(farm, job).state, job_row(farm, job).error_code) == ("failed", "quarantined")
    # one that is bound to come back to the same worker ends all the same
    pinned = add_job(farm)
    for minute in range(10, 10 + 2 * LIMIT):
        assert job_row(farm, pinned).state == "queued"
        crash(farm, pinned, first, minute)
    assert job_row(farm, pinned).state == "failed"


def test_g08_with_one_worker_three_crashes_are_enough(farm: Sessions) -> None:
    only, gone = add_worker(farm, "only"), add_worker(farm, "gone")
    done(farm, lambda s: workers.leave(s, gone, NOW))
    job = add_job(farm)
    for minute in range(3):
        crash(farm, job, only, minute)
    assert job_row(farm, job).state == "failed"


def test_g08_what_an_outage_took_is_pardoned_whether_it_was_counted_before_or_not(farm: Sessions) -> None:
    names = [add_worker(farm, f"gpu-{n}") for n in range(4)]
    old, early, late = (add_job(farm) for _ in range(3))
    crash(farm, old, names[3], -10)
    crash(farm, early, names[0], 0)
    now = NOW + timedelta(minutes=1)
    with farm.begin() as session:
        assert not losses.in_outage(session, {}, now)
        assert losses.in_outage(session, {names[1]: [late]}, now)
        # the same job as before is its own explanation
        assert not losses.in_outage(session, {names[1]: [early]}, now)
        assert not losses.in_outage(session, {names[1]: [late]}, now + timedelta(minutes=1))
        assert losses.pardon(session, LIMIT, now) == 1
        assert losses.pardon(session, LIMIT, now) == 0
    assert [job_row(farm, job).crash_count for job in (old, early)] == [1, 0]
    crash(farm, late, names[1], 0.6, outage=True)
    assert job_row(farm, late).crash_count == 0
    with farm() as session:
        row = session.get(Attempt, (late, 1))
        assert row is not None
        assert (row.outcome, row.pardoned) == ("lost", True)
        assert losses.lost_on(session, [old, early, late]) == {old: {names[3]}}


def test_g08_a_job_is_not_pardoned_for_ever(farm: Sessions) -> None:
    workers = [add_worker(farm, name) for name in ("one", "two")]
    job = add_job(farm)
    for minute in range(2 * LIMIT):
        assert job_row(farm, job).state == "queued"
        crash(farm, job, workers[minute % 2], minute, outage=True)
    assert job_row(farm, job).state == "failed"
    # nor is what was counted taken back any more
    assert done(farm, lambda s: losses.pardon(s, LIMIT, NOW + timedelta(minutes=2 * LIMIT))) == 0


def test_g08_machines_that_start_again_together_count_no_crash(farm: Sessions) -> None:
    names = [f"gpu-{n}" for n in range(3)]
    ids = {name: add_worker(farm, name) for name in names}
    jobs = [add_job(farm) for _ in names]
    for job, worker in zip(jobs, ids.values(), strict=True):
        start(farm, job, worker)
    for name in names:
        done(farm, lambda s, n=name: workers.register(s, n, "cpu", WorkerReport(), NOW, crash_limit=1))
        # the first of them cannot know yet; with a crash limit of 1 it would end its job
        if name == names[0]:
            assert job_row(farm, jobs[0]).state == "failed"
    assert [(job_row(farm, job).state, job_row(farm, job).crash_count) for job in jobs[1:]] == [
        ("queued", 0)
    ] * 2
