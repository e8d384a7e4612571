"""Rounds of the real scheduler in a farm where something is wrong: with a worker, with many of them, with the store."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Attempt, Job, Outbox
from farm.jobs import attempts, control, moves, views, workers
from farm.jobs.reports import WorkerReport
from farm.scheduler.outbox import MAX_TRIES
from tests.integration.test_scheduler import Desk, TurnedClock, rounds
from tests.integration.test_scheduler import desk as desk  # noqa: PLC0414 - a fixture
from tests.support.jobs import LATER, MODEL_KEY, OWNER, add_job, add_worker, job_row, seed, told_of

Sessions = sessionmaker[Session]


def claim_all(desk: Desk, worker: str) -> list[str]:
    """Begin what is assigned to this worker; returns the jobs."""
    with desk.sessions.begin() as session:
        given = attempts.assigned_to(session, worker)
        return [
            job for job, attempt in given if attempts.claim(session, job, attempt, worker, desk.clock.now())
        ]


def restart(desk: Desk, name: str) -> str:
    with desk.sessions.begin() as session:
        return workers.register(session, name, "cpu", WorkerReport(), desk.clock.now())


def test_g08_a_worker_that_loses_every_job_gets_one_at_a_time_and_costs_no_job(desk: Desk) -> None:
    bad, good = (add_worker(desk.sessions, name) for name in ("bad", "good"))
    jobs = [add_job(desk.sessions) for _ in range(14)]
    scheduler = desk.lead()
    claim_all(desk, good)
    held = []
    for _ in range(5):
        held.append(len(claim_all(desk, bad)))
        # its process dies and starts again
        assert restart(desk, "bad") == bad
        rounds(desk, scheduler, 1)
    # what it has lost goes elsewhere; from the third crash on it is given one job at a time
    assert held == [2, 2, 2, 1, 1]
    for _ in range(40):
        rounds(desk, scheduler, 1)
        with desk.sessions.begin() as session:
            for job in jobs:
                row = session.get(Job, job)
                if row is not None and row.worker_id == good and row.state == "running":
                    attempts.succeed(session, job, row.attempt, [], {}, desk.clock.now())
        if claim_all(desk, bad):
            restart(desk, "bad")
        claim_all(desk, good)
    rows = [job_row(desk.sessions, job) for job in jobs]
    assert {row.state for row in rows} == {"succeeded"}
    assert max(row.crash_count for row in rows) == 1
    with desk.sessions() as session:
        assert [view["state"] for view in views.worker_views(session)] == ["up", "suspect"]


def test_g08_an_outage_counts_against_no_job(desk: Desk) -> None:
    ids = [add_worker(desk.sessions, f"gpu-{n}") for n in range(4)]
    jobs = [add_job(desk.sessions) for _ in range(8)]
    scheduler = desk.lead()
    began = {worker: claim_all(desk, worker) for worker in ids}
    assert sum(map(len, began.values())) == len(jobs)
    # the first falls silent a little before the others, so that its lease ends alone
    for _ in range(4):
        with desk.sessions.begin() as session:
            for worker in ids[1:]:
                attempts.heartbeat(session, worker, [(job, 1, "sampling", 1) for job in began[worker]])
                workers.beat(session, worker, WorkerReport(), desk.clock.now())
        rounds(desk, scheduler, 1, beating=False)
    rounds(desk, scheduler, 40, beating=False)
    rows = [job_row(desk.sessions, job) for job in jobs]
    assert {(row.state, row.crash_count) for row in rows} == {("queued", 0)}
    with desk.sessions() as session:
        ends = [session.get(Attempt, (job, 1)) for job in jobs]
    assert {(row.outcome, row.pardoned) for row in ends if row} == {("lost", True)}


def test_g08_a_single_loss_beside_a_fleet_that_beats_counts(desk: Desk) -> None:
    ids = [add_worker(desk.sessions, f"gpu-{n}") for n in range(4)]
    job = add_job(desk.sessions)
    scheduler = desk.lead()
    (worker,) = [worker for worker in ids if claim_all(desk, worker)]
    for _ in range(40):
        with desk.sessions.begin() as session:
            for other in ids:
                if other != worker:
                    workers.beat(session, other, WorkerReport(), desk.clock.now())
        rounds(desk, scheduler, 1, beating=False)
    assert job_row(desk.sessions, job).crash_count == 1
    # and it is given to another one, however hot the first is
    assert job_row(desk.sessions, job).worker_id not in (None, worker)


def test_g06_while_the_store_is_away_what_needs_it_waits_and_says_since_when(sessions: Sessions) -> None:
    seed(sessions)
    desk = Desk(sessions, TurnedClock(), store_away=LATER)
    hot = add_worker(sessions, "hot", WorkerReport(models=(MODEL_KEY,)))
    cold = add_worker(sessions, "cold")
    adapter = [{"sha256": "d" * 64, "size": 5}]
    ready, waits = add_job(sessions), add_job(sessions, networks=adapter, batch_key="other")
    scheduler = desk.lead()
    assert job_row(sessions, ready).worker_id == hot
    row = job_row(sessions, waits)
    assert row.state == "queued"
    assert told_of(sessions, waits).because == f"store unreachable since {LATER:%H:%M} UTC"
    desk.store_away = None
    rounds(desk, scheduler, 1)
    assert job_row(sessions, waits).worker_id in (hot, cold)


def test_g12_a_blocked_worker_gets_nothing_and_is_named(desk: Desk) -> None:
    full = add_worker(desk.sessions, "full", WorkerReport(models=(MODEL_KEY,)))
    job = add_job(desk.sessions)
    scheduler = desk.lead()
    (given,) = claim_all(desk, full)
    with desk.sessions.begin() as session:
        workers.note_blocked(session, full, "its disk is full")
        assert attempts.hand_back(session, given, 1, LATER, outcome="blocked", why="its disk is full")
    rounds(desk, scheduler, 2)
    row = job_row(desk.sessions, job)
    assert (row.state, row.crash_count, row.retry_count) == ("queued", 0, 0)
    assert told_of(desk.sessions, job).because == "no worker that is up takes jobs: full: its disk is full"
    with desk.sessions() as session:
        (view,) = views.worker_views(session)
        assert (view["state"], view["reason"]) == ("blocked", "its disk is full")
        assert views.queue_summary(session, "user_1")["workers"] == 0
    # another one takes the job meanwhile, and the first one takes jobs again once its report says so
    other = add_worker(desk.sessions, "other")
    rounds(desk, scheduler, 1)
    assert job_row(desk.sessions, job).worker_id == other
    with desk.sessions.begin() as session:
        workers.beat(session, full, WorkerReport(models=(MODEL_KEY,)), LATER)
    second = add_job(desk.sessions)
    rounds(desk, scheduler, 1)
    assert job_row(desk.sessions, second).worker_id == full


def test_g17_webhooks_of_one_job_keep_their_order_and_hold_up_no_other_job(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    hook = "https://hook.example/"
    job, other = add_job(desk.sessions, webhook=hook), add_job(desk.sessions, webhook=hook)
    scheduler = desk.lead()
    assert len(claim_all(desk, worker)) == 2
    with desk.sessions.begin() as session:
        attempts.fail(session, job, 1, "bad", "it broke", desk.clock.now())
    desk.receiver_is_down = True
    rounds(desk, scheduler, 1)
    with desk.sessions.begin() as session:
        (failed,) = session.scalars(select(Outbox).where(Outbox.job_id == job)).all()
        assert failed.tries == 1
        control.retry(session, OWNER, job, desk.clock.now())
        control.cancel(session, OWNER, job, desk.clock.now())
        attempts.succeed(session, other, 1, [], {}, desk.clock.now())
    desk.receiver_is_down = False
    # the second message of the job is due, its first one is not yet
    rounds(desk, scheduler, 2)
    assert failed.id not in desk.delivered
    assert len(desk.delivered) == 1
    rounds(desk, scheduler, 10)
    with desk.sessions() as session:
        sent = {row.id: (row.job_id, row.payload["data"]["state"]) for row in session.scalars(select(Outbox))}
    assert [sent[message] for message in desk.delivered] == [
        (other, "succeeded"), (job, "failed"), (job, "cancelled"),
    ]  # fmt: skip


def test_g17_a_message_that_is_given_up_holds_up_the_next_one_no_longer(desk: Desk) -> None:
    add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions, webhook="https://hook.example/")
    for state in ("failed", "cancelled"):
        with desk.sessions.begin() as session:
            session.add(Outbox(**moves.webhook_row(job, None, "https://hook.example/", state, LATER)))
    with desk.sessions.begin() as session:
        session.execute(
            update(Outbox)
            .where(Outbox.id == select(func.min(Outbox.id)).scalar_subquery())
            .values(tries=MAX_TRIES)
        )
    rounds(desk, desk.lead(), 1)
    assert len(desk.delivered) == 1
