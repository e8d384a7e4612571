"""Checkpoints of jobs and the order to give way, on both databases: only the attempt that runs is heard."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from farm.jobs import attempts, control, resuming
from farm.jobs.loading import CheckpointRef, load_for_worker
from tests.support import jobs as rows
from tests.support.jobs import EPOCH, NOW, OWNER, add_job, add_worker, events_of, job_row, seed, start

Sessions = sessionmaker[Session]


@pytest.fixture
def farm(sessions: Sessions) -> Sessions:
    seed(sessions)
    return sessions


def done(farm: Sessions, action: Any) -> Any:
    with farm.begin() as session:
        return action(session)


def note(farm: Sessions, job: str, attempt: int, step: int) -> bool:
    key = f"checkpoints/{OWNER}/{job}/{attempt}/{step}.safetensors"
    return bool(done(farm, lambda s: resuming.note_checkpoint(s, job, attempt, key, "f" * 64, step)))


def test_only_the_running_attempt_names_a_checkpoint_and_the_newest_stands(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    assert not note(farm, job, 0, 1)
    first = start(farm, job, worker)
    assert note(farm, job, first, 10)
    assert done(farm, lambda s: attempts.lose(s, job, first, 0, crash_limit=3, now=NOW))
    assert not note(farm, job, first, 11)
    second = start(farm, job, worker)
    assert not note(farm, job, first, 12)
    with farm() as session:
        read = load_for_worker(session, job)
    assert read.checkpoint == CheckpointRef(
        key=f"checkpoints/{OWNER}/{job}/1/10.safetensors", sha256="f" * 64, step=10
    )
    assert read.broken_off
    assert note(farm, job, second, 3)
    assert job_row(farm, job).checkpoint_step == 3
    assert done(farm, lambda s: resuming.resumed(s, job, second, 3, "went on from step 3", NOW))
    assert not done(farm, lambda s: resuming.resumed(s, job, first, 3, "went on from step 3", NOW))
    assert job_row(farm, job).step == 3
    assert events_of(farm, job)[-1] == "resume"


def test_a_job_that_was_handed_back_before_its_first_step_was_not_broken_off(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    assert done(farm, lambda s: attempts.hand_back(s, job, attempt, NOW, timings={"sampling": 0.0}))
    with farm() as session:
        assert not load_for_worker(session, job).broken_off


def test_the_order_to_give_way_is_one_attempts_given_once_and_heard_with_the_heartbeat(
    farm: Sessions,
) -> None:
    job, calm, worker = add_job(farm), add_job(farm), add_worker(farm, "gpu-1")
    attempt, other = start(farm, job, worker), start(farm, calm, worker)
    beats = [(job, attempt, "sampling", 1), (calm, other, "sampling", 1)]

    def ask(attempt: int, epoch: int = EPOCH) -> bool:
        return bool(
            done(farm, lambda s: resuming.preempt(s, job, attempt, "job_2 is urgent", NOW, epoch=epoch))
        )

    assert not ask(attempt, epoch=EPOCH + 1)
    assert not ask(attempt + 1)
    assert not done(farm, lambda s: attempts.heartbeat(s, worker, beats)).give_way
    assert ask(attempt)
    assert not ask(attempt)
    assert done(farm, lambda s: attempts.heartbeat(s, worker, beats)).give_way == {job}
    assert done(farm, lambda s: attempts.hand_back(s, job, attempt, NOW, outcome="preempted"))
    row = job_row(farm, job)
    assert (row.state, row.crash_count, row.retry_count) == ("queued", 0, 0)
    assert not ask(attempt)
    # the next attempt is not asked
    again = start(farm, job, worker)
    assert not done(farm, lambda s: attempts.heartbeat(s, worker, [(job, again, "fetching", 0)])).give_way


def test_a_retry_begins_anew_and_what_has_ended_keeps_no_checkpoint(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    assert note(farm, job, attempt, 2)
    key = job_row(farm, job).checkpoint_key

    def in_use() -> frozenset[str]:
        with farm() as session:
            return resuming.checkpoints_in_use(session, [job, "job_unknown"])

    assert in_use() == {key}
    assert done(farm, lambda s: attempts.fail(s, job, attempt, "diverged", "NaN", NOW))
    assert in_use() == frozenset()
    done(farm, lambda s: control.retry(s, OWNER, job, rows.LATER))
    assert job_row(farm, job).checkpoint_key is None
