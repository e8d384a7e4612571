"""Transitions on both databases: every guard refuses whom it should, and of many at once one wins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Attempt, Batch, Job, Lease, Outbox
from farm.errors import Conflict, NotFound
from farm.jobs import attempts, control, workers
from farm.jobs.reports import WorkerReport
from farm.jobs.states import TRANSITIONS, State
from tests.support.jobs import (
    EPOCH,
    LATER,
    NOW,
    OWNER,
    STRANGER,
    add_job,
    add_worker,
    assign,
    events_of,
    image_count,
    job_row,
    new_image,
    seed,
    start,
)

Sessions = sessionmaker[Session]


@pytest.fixture
def farm(sessions: Sessions) -> Sessions:
    seed(sessions)
    return sessions


def race(number: int, action: Callable[[int], Any]) -> list[Any]:
    """Results of `number` threads that were let go at once."""
    barrier = threading.Barrier(number)
    results: list[Any] = [None] * number

    def run(index: int) -> None:
        barrier.wait(60)
        results[index] = action(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def done(sessions: Sessions, action: Callable[[Session], Any]) -> Any:
    with sessions.begin() as session:
        return action(session)


def test_one_of_16_claims_wins(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = assign(farm, job, worker)
    won = race(16, lambda _: done(farm, lambda s: attempts.claim(s, job, attempt, worker, NOW)))
    assert sorted(won) == [False] * 15 + [True]
    assert events_of(farm, job) == ["assign", "claim"]


def test_one_of_16_assignments_wins(farm: Sessions) -> None:
    job = add_job(farm)
    ids = [add_worker(farm, f"gpu-{number}") for number in range(4)]
    won = race(16, lambda i: done(farm, lambda s: attempts.assign(s, job, 0, ids[i % 4], NOW, epoch=EPOCH)))
    assert sum(won) == 1
    assert job_row(farm, job).attempt == 1


def test_cancel_and_success_agree_whoever_is_first(farm: Sessions) -> None:
    worker = add_worker(farm, "gpu-1")
    for _ in range(10):
        job = add_job(farm)
        attempt = start(farm, job, worker)

        def cancel_or_finish(index: int, job: str = job, attempt: int = attempt) -> Any:
            if index:
                return done(farm, lambda s: attempts.succeed(s, job, attempt, [new_image()], {}, NOW))
            try:
                return done(farm, lambda s: control.cancel(s, OWNER, job, NOW))
            except Conflict:
                return "too late"

        reply, recorded = race(2, cancel_or_finish)
        assert recorded is True
        assert job_row(farm, job).state == "succeeded"
        assert reply in ("too late", State.RUNNING)


def test_a_lost_lead_assigns_nothing(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    done(farm, lambda s: s.execute(update(Lease).values(epoch=EPOCH + 1)))
    assert not done(farm, lambda s: attempts.assign(s, job, 0, worker, NOW, epoch=EPOCH))
    assert job_row(farm, job).state == "queued"


STALE: Sequence[tuple[str, Callable[[Session, str, int], bool]]] = (
    ("succeed", lambda s, job, attempt: attempts.succeed(s, job, attempt, [new_image()], {}, NOW)),
    ("fail", lambda s, job, attempt: attempts.fail(s, job, attempt, "bad", "it broke", NOW)),
    ("retry_later", lambda s, job, attempt: attempts.retry_later(s, job, attempt, "away", "away", NOW)),
    ("hand_back", lambda s, job, attempt: attempts.hand_back(s, job, attempt, NOW)),
    ("cancelled", lambda s, job, attempt: attempts.cancelled(s, job, attempt, NOW)),
    ("lose", lambda s, job, attempt: attempts.lose(s, job, attempt, 0, crash_limit=3, now=NOW)),
)


def test_a_stale_attempt_changes_nothing(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    old = start(farm, job, worker)
    assert done(farm, lambda s: attempts.hand_back(s, job, old, NOW))
    new = start(farm, job, worker)
    before = events_of(farm, job)
    for name, act in STALE:
        assert not done(farm, lambda s, act=act: act(s, job, old)), name
    assert (job_row(farm, job).state, job_row(farm, job).attempt) == ("running", new)
    assert events_of(farm, job) == before
    assert image_count(farm, job) == 0


@pytest.mark.parametrize("state", ["queued", "succeeded", "failed", "cancelled"])
def test_a_job_that_nobody_runs_takes_no_result(farm: Sessions, state: str) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    if state == "queued":
        done(farm, lambda s: attempts.hand_back(s, job, attempt, NOW))
    elif state == "succeeded":
        done(farm, lambda s: attempts.succeed(s, job, attempt, [new_image()], {}, NOW))
    elif state == "failed":
        done(farm, lambda s: attempts.fail(s, job, attempt, "bad", "it broke", NOW))
    else:
        done(farm, lambda s: control.cancel(s, OWNER, job, NOW))
        done(farm, lambda s: attempts.cancelled(s, job, attempt, NOW))
    images, before = image_count(farm, job), events_of(farm, job)
    for name, act in STALE:
        won = done(farm, lambda s, act=act: act(s, job, attempt))
        assert won is (name == "succeed" and state == "succeeded"), name
    assert job_row(farm, job).state == state
    assert image_count(farm, job) == images
    assert events_of(farm, job) == before


def test_claim_wants_the_right_worker_attempt_and_state(farm: Sessions) -> None:
    job, worker, other = add_job(farm), add_worker(farm, "gpu-1"), add_worker(farm, "gpu-2")
    attempt = assign(farm, job, worker)
    assert not done(farm, lambda s: attempts.claim(s, job, attempt, other, NOW))
    assert not done(farm, lambda s: attempts.claim(s, job, attempt + 1, worker, NOW))
    assert done(farm, lambda s: attempts.claim(s, job, attempt, worker, NOW))
    assert not done(farm, lambda s: attempts.claim(s, job, attempt, worker, NOW))


def test_a_job_that_was_lost_has_a_worker_to_itself(farm: Sessions) -> None:
    worker = add_worker(farm, "gpu-1")
    lost, first, second = add_job(farm), add_job(farm), add_job(farm)
    start(farm, lost, worker)
    assert done(farm, lambda s: attempts.lose(s, lost, 1, 0, crash_limit=3, now=NOW))
    claim = lambda job, attempt: done(farm, lambda s: attempts.claim(s, job, attempt, worker, NOW))  # noqa: E731
    start(farm, first, worker)
    waiting, later = assign(farm, lost, worker), assign(farm, second, worker)
    assert not claim(lost, waiting)
    assert not claim(second, later), "else the turn of the lost one might never come"
    assert done(farm, lambda s: attempts.hand_back(s, first, 1, NOW))
    assert claim(lost, waiting)
    assert not claim(second, later)
    assert done(farm, lambda s: attempts.hand_back(s, lost, waiting, NOW))
    assert claim(second, later)


def test_assign_wants_a_waiting_job_whose_pause_is_over(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    assert done(farm, lambda s: attempts.retry_later(s, job, attempt, "away", "the store is away", NOW))
    row = job_row(farm, job)
    assert row.not_before is not None
    assert NOW < row.not_before < LATER
    assert row.wait_reason == "the store is away"
    assert not done(farm, lambda s: attempts.assign(s, job, attempt, worker, NOW, epoch=EPOCH))
    assert not done(farm, lambda s: attempts.assign(s, job, attempt - 1, worker, LATER, epoch=EPOCH))
    assert done(farm, lambda s: attempts.assign(s, job, attempt, worker, LATER, epoch=EPOCH))


def test_many_are_assigned_at_once_and_each_only_if_it_may_be(farm: Sessions) -> None:
    first, second = add_worker(farm, "gpu-1"), add_worker(farm, "gpu-2")
    good, cancelled, later, other = (add_job(farm) for _ in range(4))
    done(farm, lambda s: control.cancel(s, OWNER, cancelled, NOW))
    done(farm, lambda s: s.execute(update(Job).where(Job.id == later).values(not_before=LATER)))
    wanted = [
        (good, 0, first),
        (cancelled, 0, first),
        (later, 0, second),
        (other, 0, second),
        (good, 3, second),
    ]
    assert done(farm, lambda s: attempts.assign_all(s, wanted, NOW, epoch=EPOCH + 1)) == set()
    assert done(farm, lambda s: attempts.assign_all(s, wanted, NOW, epoch=EPOCH)) == {(good, 0), (other, 0)}
    for job, worker in ((good, first), (other, second)):
        row = job_row(farm, job)
        assert (row.state, row.attempt, row.worker_id, row.sends) == ("assigned", 1, worker, 1)
        assert events_of(farm, job) == ["assign"]
    assert job_row(farm, later).state == "queued"
    assert done(farm, lambda s: attempts.assign_all(s, [], NOW, epoch=EPOCH)) == set()


def test_retries_end(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    now = NOW
    for _ in range(attempts.MAX_RETRIES + 1):
        now += timedelta(hours=1)
        attempt = start(farm, job, worker, now)
        assert done(
            farm, lambda s, a=attempt, n=now: attempts.retry_later(s, job, a, "away", "the store is away", n)
        )
    row = job_row(farm, job)
    assert (row.state, row.error_code, row.crash_count) == ("failed", "away", 0)
    assert row.error_message == "the store is away (after 5 retries)"


def test_heartbeat_tells_what_is_lost_and_what_is_to_be_cancelled(farm: Sessions) -> None:
    worker, other = add_worker(farm, "gpu-1"), add_worker(farm, "gpu-2")
    mine, cancelled, stolen = (add_job(farm) for _ in range(3))
    beats = [(job, start(farm, job, worker), "sampling", 3) for job in (mine, cancelled, stolen)]
    done(farm, lambda s: control.cancel(s, OWNER, cancelled, NOW))
    done(farm, lambda s: attempts.hand_back(s, stolen, beats[2][1], NOW))
    start(farm, stolen, other)
    answer = done(farm, lambda s: attempts.heartbeat(s, worker, beats))
    assert answer == attempts.HeartbeatAnswer(lost=frozenset({stolen}), cancel=frozenset({cancelled}))
    row = job_row(farm, mine)
    assert (row.hb_seq, row.stage, row.step) == (1, "sampling", 3)
    assert job_row(farm, stolen).hb_seq == 0
    assert done(farm, lambda s: attempts.heartbeat(s, worker, [])).lost == frozenset()


def test_a_heartbeat_saves_a_job_from_being_lost(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    done(farm, lambda s: attempts.heartbeat(s, worker, [(job, attempt, "sampling", 1)]))
    assert not done(farm, lambda s: attempts.lose(s, job, attempt, 0, crash_limit=3, now=NOW))
    assert done(farm, lambda s: attempts.lose(s, job, attempt, 1, crash_limit=3, now=NOW))


def test_the_third_loss_is_a_quarantine_in_words(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    for crashes in (1, 2, 3):
        attempt = start(farm, job, worker)
        done(farm, lambda s, a=attempt: attempts.heartbeat(s, worker, [(job, a, "sampling", 12)]))
        assert done(farm, lambda s, a=attempt: attempts.lose(s, job, a, 1, crash_limit=3, now=NOW))
        assert job_row(farm, job).crash_count == crashes
    row = job_row(farm, job)
    assert (row.state, row.error_code) == ("failed", "quarantined")
    assert row.error_message == "its worker was lost 3 times while rendering it (last: gpu-1, at step 12)"
    assert events_of(farm, job)[-1] == "quarantine"
    with pytest.raises(Conflict, match="quarantined"):
        done(farm, lambda s: control.retry(s, OWNER, job, NOW))


def test_success_writes_pictures_attempt_and_webhook_together(farm: Sessions) -> None:
    job, worker = add_job(farm, webhook="https://example.org/farm"), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    images = [new_image(0), new_image(1)]
    assert done(farm, lambda s: attempts.succeed(s, job, attempt, images, {"sampling": 1.5}, LATER))
    with farm() as session:
        row = session.get(Job, job)
        assert row is not None
        assert (row.state, row.result_attempt, row.worker_id, row.step) == ("succeeded", attempt, None, 4)
        kept = session.get(Attempt, (job, attempt))
        assert kept is not None
        assert (kept.outcome, kept.timings, kept.ended_at) == ("succeeded", {"sampling": 1.5}, LATER)
        message = session.scalars(select(Outbox)).one()
        assert message.payload["type"] == "job.succeeded"
        assert message.payload["data"] == {"id": job, "state": "succeeded", "batch": None}
    assert image_count(farm, job) == 2


def test_recording_twice_after_an_unknown_commit_is_one_result(farm: Sessions) -> None:
    job, worker = add_job(farm, webhook="https://example.org/farm"), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    for _ in range(2):
        assert done(farm, lambda s: attempts.succeed(s, job, attempt, [new_image()], {}, NOW))
    assert image_count(farm, job) == 1
    with farm() as session:
        assert len(session.scalars(select(Outbox)).all()) == 1


def test_a_rolled_back_success_leaves_nothing(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    with farm() as session:
        assert attempts.succeed(session, job, attempt, [new_image()], {}, NOW)
        session.rollback()
    assert job_row(farm, job).state == "running"
    assert image_count(farm, job) == 0
    assert events_of(farm, job)[-1] == "claim"


@pytest.mark.parametrize("how", ["hand_back", "lose", "quarantine", "retry_later", "cancelled"])
def test_a_job_marked_for_cancel_never_waits_again(farm: Sessions, how: str) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    assert done(farm, lambda s: control.cancel(s, OWNER, job, NOW)) == State.RUNNING
    limit = 1 if how == "quarantine" else 3
    ways: dict[str, Callable[[Session], bool]] = {
        "hand_back": lambda s: attempts.hand_back(s, job, attempt, NOW),
        "lose": lambda s: attempts.lose(s, job, attempt, 0, crash_limit=limit, now=NOW),
        "quarantine": lambda s: attempts.lose(s, job, attempt, 0, crash_limit=limit, now=NOW),
        "retry_later": lambda s: attempts.retry_later(s, job, attempt, "away", "away", NOW),
        "cancelled": lambda s: attempts.cancelled(s, job, attempt, NOW),
    }
    assert done(farm, ways[how])
    row = job_row(farm, job)
    assert (row.state, row.finished_at, row.error_code) == ("cancelled", NOW, None)


def test_cancelled_needs_a_cancel(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    assert not done(farm, lambda s: attempts.cancelled(s, job, attempt, NOW))


def test_cancelling_an_assigned_job_fences_its_attempt_off(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = assign(farm, job, worker)
    assert done(farm, lambda s: control.cancel(s, OWNER, job, NOW)) == State.CANCELLED
    assert not done(farm, lambda s: attempts.claim(s, job, attempt, worker, NOW))
    assert done(farm, lambda s: control.cancel(s, OWNER, job, LATER)) == State.CANCELLED
    assert job_row(farm, job).finished_at == NOW


def test_retry_starts_anew_under_a_growing_attempt(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    done(farm, lambda s: attempts.fail(s, job, attempt, "bad", "it broke", NOW))
    assert done(farm, lambda s: control.retry(s, OWNER, job, LATER)) == State.QUEUED
    row = job_row(farm, job)
    assert (row.state, row.error_code, row.finished_at, row.attempt) == ("queued", None, None, attempt)
    assert start(farm, job, worker, LATER) == attempt + 1
    with pytest.raises(Conflict):
        done(farm, lambda s: control.retry(s, OWNER, job, LATER))


def test_strangers_find_nothing(farm: Sessions) -> None:
    job = add_job(farm)
    for act in (control.cancel, control.retry):
        with pytest.raises(NotFound):
            done(farm, lambda s, act=act: act(s, STRANGER, job, NOW))
    with pytest.raises(NotFound):
        done(farm, lambda s: control.set_priority(s, STRANGER, job, "bulk", NOW))
    assert job_row(farm, job).state == "queued"


def test_priority_moves_only_what_waits(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    done(farm, lambda s: control.set_priority(s, OWNER, job, "interactive", NOW))
    assert job_row(farm, job).priority == 0
    start(farm, job, worker)
    with pytest.raises(Conflict):
        done(farm, lambda s: control.set_priority(s, OWNER, job, "bulk", NOW))


def test_a_batch_is_cancelled_as_a_whole(farm: Sessions) -> None:
    worker = add_worker(farm, "gpu-1")
    with farm.begin() as session:
        session.add(Batch(id="batch_1", owner_id=OWNER, name="b", total=4, created_at=NOW))
    jobs = [add_job(farm, batch_id="batch_1", webhook="https://example.org/x") for _ in range(4)]
    running = start(farm, jobs[0], worker)
    finished = start(farm, jobs[1], worker)
    done(farm, lambda s: attempts.fail(s, jobs[1], finished, "bad", "it broke", NOW))
    assign(farm, jobs[2], worker)
    with pytest.raises(NotFound):
        done(farm, lambda s: control.cancel_batch(s, STRANGER, "batch_1", LATER))
    assert done(farm, lambda s: control.cancel_batch(s, OWNER, "batch_1", LATER)) == 3
    assert [job_row(farm, job).state for job in jobs] == ["running", "failed", "cancelled", "cancelled"]
    assert done(farm, lambda s: control.cancel_batch(s, OWNER, "batch_1", LATER)) == 0
    assert [events_of(farm, job)[-1] for job in jobs] == ["request_cancel", "fail", "cancel", "cancel"]
    assert done(farm, lambda s: attempts.cancelled(s, jobs[0], running, LATER))
    with farm() as session:
        hooks = sorted(row.payload["type"] for row in session.scalars(select(Outbox)))
    assert hooks == ["job.cancelled"] * 3 + ["job.failed"]
    assert done(farm, lambda s: control.retry_failed(s, OWNER, "batch_1", LATER)) == 1
    assert events_of(farm, jobs[1])[-1] == "retry"


def test_a_worker_that_comes_back_under_its_name_has_lost_its_jobs(farm: Sessions) -> None:
    worker = add_worker(farm, "gpu-1")
    running, waiting = add_job(farm), add_job(farm)
    start(farm, running, worker)
    attempt = assign(farm, waiting, worker)
    assert add_worker(farm, "gpu-1") == worker
    assert job_row(farm, running).state == "queued"
    assert job_row(farm, running).crash_count == 1
    with farm() as session:
        assert attempts.assigned_to(session, worker) == [(waiting, attempt)]


def test_a_worker_leaves_in_good_order(farm: Sessions) -> None:
    worker = add_worker(farm, "gpu-1")
    jobs = [add_job(farm), add_job(farm)]
    start(farm, jobs[0], worker)
    assign(farm, jobs[1], worker)
    done(farm, lambda s: workers.leave(s, worker, NOW))
    rows = [job_row(farm, job) for job in jobs]
    assert [(row.state, row.crash_count, row.retry_count) for row in rows] == [("queued", 0, 0)] * 2
    assert done(farm, lambda s: workers.beat(s, worker, WorkerReport(), NOW)).gone


def test_a_worker_hears_drain_and_being_given_up(farm: Sessions) -> None:
    worker = add_worker(farm, "gpu-1")
    beat = lambda: done(farm, lambda s: workers.beat(s, worker, WorkerReport(), NOW))  # noqa: E731
    assert beat() == workers.WorkerOrders(drain=False, gone=False)
    done(farm, lambda s: workers.drain(s, worker))
    assert beat().drain
    done(farm, lambda s: workers.resume(s, worker))
    assert not beat().drain
    assert not done(farm, lambda s: workers.mark_gone(s, worker, 0, NOW))
    assert done(farm, lambda s: workers.mark_gone(s, worker, 3, NOW))
    assert beat().gone
    with pytest.raises(NotFound):
        done(farm, lambda s: workers.drain(s, worker))


def test_every_event_is_a_transition_of_the_table(farm: Sessions) -> None:
    job, worker = add_job(farm), add_worker(farm, "gpu-1")
    attempt = start(farm, job, worker)
    done(farm, lambda s: attempts.hand_back(s, job, attempt, NOW))
    second = assign(farm, job, worker)
    assert done(farm, lambda s: attempts.note_send(s, job, second))
    assert done(farm, lambda s: attempts.unassign(s, job, second, NOW))
    assert not done(farm, lambda s: attempts.note_send(s, job, second))
    assert set(events_of(farm, job)) <= TRANSITIONS.keys()


def test_the_first_estimate_of_a_job_is_kept(farm: Sessions) -> None:
    job, other = add_job(farm), add_job(farm)
    done(farm, lambda s: attempts.note_first_estimates(s, {job: LATER}, NOW))
    done(farm, lambda s: attempts.note_first_estimates(s, {job: NOW, other: LATER}, LATER))
    row = job_row(farm, job)
    assert (row.first_estimate, row.first_estimate_at) == (LATER, NOW)
    assert job_row(farm, other).first_estimate_at == LATER
    done(farm, lambda s: attempts.note_first_estimates(s, {}, NOW))


def test_loading_a_job_for_a_worker(farm: Sessions) -> None:
    job = add_job(farm)
    with farm() as session:
        found = attempts.load_for_worker(session, job)
        assert (found.model.name, found.seeds, found.spec.steps) == ("tiny", (7,), 4)
        with pytest.raises(NotFound):
            attempts.load_for_worker(session, "job_none")
