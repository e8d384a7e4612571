"""Rounds of the real scheduler on both databases, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Attempt, Job, Outbox, Worker
from farm.errors import Transient
from farm.jobs import attempts, control, leases, pauses, users, workers
from farm.jobs.reports import WorkerReport
from farm.scheduler.loop import Effects, Scheduler, Timers
from tests.support.jobs import LATER, NOW, OWNER, STRANGER, add_job, add_worker, job_row, seed, told_of


@dataclass
class TurnedClock:
    """Stands still until it is turned."""

    seconds: float = 0.0

    def now(self) -> datetime:
        return LATER + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Desk:
    """One scheduler on a test's database, and what it did to the outside."""

    sessions: sessionmaker[Session]
    clock: TurnedClock
    sent: list[tuple[str, str, int]] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    swept: list[datetime] = field(default_factory=list)
    receiver_is_down: bool = False
    running_limit: int = 0
    store_away: datetime | None = None

    def scheduler(self, holder: str = "one") -> Scheduler:
        def deliver(url: str, message_id: str, payload: Mapping[str, Any], now: datetime) -> None:
            if self.receiver_is_down:
                raise Transient("refused")
            self.delivered.append(message_id)

        return Scheduler(
            self.sessions,
            Effects(
                send=lambda *message: self.sent.append(message),
                wait=lambda seconds: None,
                tell=lambda *told: None,
                deliver=deliver,
                aside=lambda work: work() and None,
                sweep=self.swept.append,
                store_away=lambda: self.store_away,
            ),
            self.clock,
            Timers(round_seconds=1, lease_seconds=30, leader_lease_seconds=5, claim_seconds=15),
            holder=holder,
            window=2,
            crash_limit=3,
            running_limit=self.running_limit,
        )

    def lead(self) -> Scheduler:
        """A scheduler that has taken over from the leader that `seed` left behind."""
        scheduler = self.scheduler()
        scheduler.round()
        self.clock.sleep(6)
        scheduler.round()
        assert scheduler.leads
        return scheduler

    def beat(self) -> None:
        with self.sessions.begin() as session:
            session.execute(update(Worker).values(seq=Worker.seq + 1))


@pytest.fixture
def desk(sessions: sessionmaker[Session]) -> Desk:
    seed(sessions)
    return Desk(sessions, TurnedClock())


def rounds(desk: Desk, scheduler: Scheduler, seconds: int, *, beating: bool = True) -> None:
    for _ in range(seconds):
        desk.clock.sleep(1)
        if beating:
            desk.beat()
        scheduler.round()


def test_a_waiting_job_is_assigned_and_its_worker_told(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions)
    desk.lead()
    assert job_row(desk.sessions, job).state == "assigned"
    assert desk.sent == [(worker, job, 1)]


def test_a_worker_gets_no_more_than_its_window_and_the_rest_is_told_why_it_waits(desk: Desk) -> None:
    add_worker(desk.sessions, "gpu-1")
    jobs = [add_job(desk.sessions) for _ in range(5)]
    desk.lead()
    states = [job_row(desk.sessions, job).state for job in jobs]
    assert states == ["assigned"] * 2 + ["queued"] * 3
    told = [told_of(desk.sessions, job) for job in jobs[2:]]
    assert [item.position for item in told] == [0, 1, 2]
    assert told[0].because.startswith("gpu-1 is free in about")
    assert told[2].because.startswith("behind 2 jobs of yours; gpu-1 is expected to take it")
    starts = [item.start or NOW for item in told]
    assert starts == sorted(starts)


def test_without_a_worker_the_reason_says_so(desk: Desk) -> None:
    job = add_job(desk.sessions)
    desk.lead()
    told = told_of(desk.sessions, job)
    assert (told.position, told.because) == (0, "no worker is up; start one with `farm worker`")


def test_the_hot_worker_is_preferred(desk: Desk) -> None:
    add_worker(desk.sessions, "cold")
    hot = add_worker(desk.sessions, "hot", WorkerReport(models=("a" * 64,)))
    job = add_job(desk.sessions)
    desk.lead()
    assert job_row(desk.sessions, job).worker_id == hot


def test_a_message_that_was_lost_is_sent_again_and_then_the_job_is_taken_back(desk: Desk) -> None:
    add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions)
    scheduler = desk.lead()
    rounds(desk, scheduler, 16)
    assert [message[1:] for message in desk.sent] == [(job, 1), (job, 1)]
    rounds(desk, scheduler, 32)
    assert job_row(desk.sessions, job).attempt == 2
    assert job_row(desk.sessions, job).crash_count == 0


def test_a_job_whose_heartbeat_stands_still_is_queued_again_and_fails_the_third_time(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions)
    scheduler = desk.lead()
    for crash in (1, 2, 3):
        attempt = job_row(desk.sessions, job).attempt
        with desk.sessions.begin() as session:
            assert attempts.claim(session, job, attempt, worker, desk.clock.now())
        rounds(desk, scheduler, 29)
        assert job_row(desk.sessions, job).state == "running"
        rounds(desk, scheduler, 3)
        assert job_row(desk.sessions, job).crash_count == crash
    row = job_row(desk.sessions, job)
    assert (row.state, row.error_code) == ("failed", "quarantined")
    assert "lost 3 times" in str(row.error_message)


def test_a_job_that_beats_is_left_alone_however_long_it_takes(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions)
    scheduler = desk.lead()
    with desk.sessions.begin() as session:
        attempts.claim(session, job, 1, worker, desk.clock.now())
    for _ in range(20):
        with desk.sessions.begin() as session:
            attempts.heartbeat(session, worker, [(job, 1, "sampling", 1)])
        rounds(desk, scheduler, 10)
    assert job_row(desk.sessions, job).state == "running"


def test_time_in_which_the_leader_was_stopped_costs_nobody_a_job(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions)
    scheduler = desk.lead()
    with desk.sessions.begin() as session:
        attempts.claim(session, job, 1, worker, desk.clock.now())
    rounds(desk, scheduler, 2)
    desk.clock.sleep(3600)
    scheduler.round()
    assert job_row(desk.sessions, job).state == "running"


def test_a_worker_that_went_silent_gets_nothing_and_what_it_was_given_comes_back(desk: Desk) -> None:
    silent = add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions)
    scheduler = desk.lead()
    rounds(desk, scheduler, 40, beating=False)
    with desk.sessions() as session:
        assert session.scalar(select(Worker.state).where(Worker.id == silent)) == "gone"
    assert job_row(desk.sessions, job).state == "queued"


def test_only_one_of_two_leads_and_the_other_takes_over_when_it_falls_silent(desk: Desk) -> None:
    first = desk.lead()
    second = desk.scheduler("two")
    for _ in range(10):
        desk.clock.sleep(1)
        first.round()
        second.round()
    assert first.leads
    assert not second.leads
    desk.clock.sleep(6)
    second.round()
    assert second.leads
    job = add_job(desk.sessions)
    add_worker(desk.sessions, "gpu-1")
    first.round()
    assert not first.leads
    assert job_row(desk.sessions, job).state == "queued"
    second.round()
    assert job_row(desk.sessions, job).state == "assigned"


def test_a_leader_that_stops_in_good_order_is_followed_at_once(desk: Desk) -> None:
    first = desk.lead()
    first.run(lambda: True)
    second = desk.scheduler("two")
    second.round()
    assert second.leads


def test_interactive_work_comes_before_bulk(desk: Desk) -> None:
    bulk = [add_job(desk.sessions, priority=2) for _ in range(3)]
    urgent = add_job(desk.sessions, priority=0)
    add_worker(desk.sessions, "gpu-1")
    desk.lead()
    assert job_row(desk.sessions, urgent).state == "assigned"
    assert sum(job_row(desk.sessions, job).state == "assigned" for job in bulk) == 1


def test_a_webhook_is_tried_again_until_it_is_delivered(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    job = add_job(desk.sessions, webhook="https://hook.example/")
    scheduler = desk.lead()
    with desk.sessions.begin() as session:
        attempts.claim(session, job, 1, worker, desk.clock.now())
        attempts.fail(session, job, 1, "bad", "it failed", desk.clock.now())
    desk.receiver_is_down = True
    rounds(desk, scheduler, 3)
    assert desk.delivered == []
    desk.receiver_is_down = False
    rounds(desk, scheduler, 30)
    assert len(desk.delivered) == 1
    with desk.sessions() as session:
        assert session.scalars(select(Outbox.delivered_at)).one() is not None


def test_the_leader_sweeps_the_store_once_an_hour(desk: Desk) -> None:
    scheduler = desk.lead()
    assert desk.swept == []
    for _ in range(5):
        desk.clock.sleep(1800)
        scheduler.round()
    assert len(desk.swept) == 2


def test_a_cancelled_job_is_not_assigned(desk: Desk) -> None:
    job = add_job(desk.sessions)
    with desk.sessions.begin() as session:
        control.cancel(session, OWNER, job, desk.clock.now())
    add_worker(desk.sessions, "gpu-1")
    desk.lead()
    assert desk.sent == []
    assert job_row(desk.sessions, job).state == "cancelled"
    with desk.sessions() as session:
        assert session.scalars(select(Job.id).where(Job.state == "queued")).all() == []


def test_a_paused_user_gets_nothing_until_resumed_and_is_told(desk: Desk) -> None:
    job, other = add_job(desk.sessions), add_job(desk.sessions, owner=STRANGER)
    add_worker(desk.sessions, "gpu-1")
    with desk.sessions.begin() as session:
        pauses.pause(session, "user", OWNER, OWNER, desk.clock.now())
    scheduler = desk.lead()
    assert told_of(desk.sessions, job).because == "an operator has paused this user's jobs"
    assert job_row(desk.sessions, other).state == "assigned"
    with desk.sessions.begin() as session:
        pauses.resume(session, "user", OWNER)
    rounds(desk, scheduler, 1)
    assert job_row(desk.sessions, job).state == "assigned"


def test_the_queue_and_a_model_can_be_paused(desk: Desk) -> None:
    job = add_job(desk.sessions)
    add_worker(desk.sessions, "gpu-1")
    with desk.sessions.begin() as session:
        pauses.pause(session, "queue", "", OWNER, desk.clock.now())
        pauses.pause(session, "model", "tiny", OWNER, desk.clock.now())
        assert [row["kind"] for row in pauses.pause_views(session)] == ["model", "queue"]
    scheduler = desk.lead()
    assert "paused" in told_of(desk.sessions, job).because
    with desk.sessions.begin() as session:
        pauses.resume(session, "queue", "")
    rounds(desk, scheduler, 1)
    assert told_of(desk.sessions, job).because == "an operator has paused jobs with the model tiny"


def test_g16_a_million_jobs_of_one_user_do_not_hide_anothers(desk: Desk) -> None:
    """A smaller flood, but far deeper than what one round reads of one user."""
    for _ in range(300):
        add_job(desk.sessions)
    late = add_job(desk.sessions, owner=STRANGER)
    add_worker(desk.sessions, "gpu-1")
    desk.lead()
    assert job_row(desk.sessions, late).state == "assigned"


def test_a_user_has_no_more_jobs_on_workers_than_the_limit(desk: Desk) -> None:
    jobs = [add_job(desk.sessions) for _ in range(3)]
    for name in ("gpu-1", "gpu-2"):
        add_worker(desk.sessions, name)
    desk.running_limit = 1
    desk.lead()
    rows = [job_row(desk.sessions, job) for job in jobs]
    assert [row.state for row in rows] == ["assigned", "queued", "queued"]
    told = [told_of(desk.sessions, job) for job in jobs[1:]]
    assert all("as one user may have at once" in item.because for item in told)
    # held, but not for ever: one after the other
    assert told[0].start is not None
    assert told[1].start is not None
    assert told[0].start < told[1].start


def test_the_error_of_an_estimate_is_recorded_with_the_first_attempt(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    jobs = [add_job(desk.sessions) for _ in range(3)]
    scheduler = desk.lead()
    told = told_of(desk.sessions, jobs[2])
    assert told.low is not None
    assert told.start is not None
    assert told.high is not None
    assert told.low < told.start < told.high
    with desk.sessions.begin() as session:
        for job in jobs[:2]:
            attempts.claim(session, job, 1, worker, desk.clock.now())
            attempts.cancelled(session, job, 1, desk.clock.now())
            attempts.fail(session, job, 1, "bad", "it failed", desk.clock.now())
    rounds(desk, scheduler, 7)
    with desk.sessions.begin() as session:
        assert attempts.claim(session, jobs[2], 1, worker, desk.clock.now())
    with desk.sessions() as session:
        attempt = session.get_one(Attempt, (jobs[2], 1))
        assert attempt.waited == 7
        assert attempt.expected_wait > 0


def test_a_worker_hears_with_its_heartbeat_what_it_is_expected_to_get_next(desk: Desk) -> None:
    worker = add_worker(desk.sessions, "gpu-1")
    jobs = [add_job(desk.sessions) for _ in range(4)]
    scheduler = desk.lead()
    with desk.sessions.begin() as session:
        assert workers.beat(session, worker, WorkerReport(), desk.clock.now()).next_job == jobs[2]
        for job in jobs[2:]:
            control.cancel(session, OWNER, job, desk.clock.now())
    rounds(desk, scheduler, 1)
    with desk.sessions.begin() as session:
        assert workers.beat(session, worker, WorkerReport(), desk.clock.now()).next_job is None


def shares(desk: Desk, scheduler: Scheduler, number: int) -> list[str]:
    """Owners of the jobs that one worker takes and ends in so many rounds, in order."""
    owners = []
    for _ in range(number):
        rounds(desk, scheduler, 1)
        with desk.sessions.begin() as session:
            for job in session.scalars(select(Job).where(Job.state == "assigned").order_by(Job.id)).all():
                owners.append(job.owner_id)
                assert attempts.claim(session, job.id, job.attempt, str(job.worker_id), desk.clock.now())
                attempts.fail(session, job.id, job.attempt, "bad", "it failed", desk.clock.now())
    return owners


def test_g11_who_had_much_under_the_last_leader_stays_behind_under_the_next(desk: Desk) -> None:
    add_worker(desk.sessions, "gpu-1", WorkerReport(models=("a" * 64,), seconds_per_step={"k": 1.0}))
    add_job(desk.sessions, steps=4000)
    for _ in range(6):
        add_job(desk.sessions)
    for _ in range(8):
        add_job(desk.sessions, owner=STRANGER)
    assert shares(desk, desk.lead(), 2)[:2] == [OWNER, STRANGER]
    # it falls silent, without a word
    second = desk.scheduler("two")
    second.round()
    desk.clock.sleep(6)
    # a fair start would be the owner's turn, whose jobs are older
    assert set(shares(desk, second, 1)) == {STRANGER}
    assert second.leads


def test_a_leader_that_was_replaced_keeps_no_ledger(desk: Desk) -> None:
    add_worker(desk.sessions, "gpu-1")
    first = desk.lead()
    second = desk.scheduler("two")
    second.round()
    desk.clock.sleep(6)
    second.round()
    with desk.sessions.begin() as session:
        assert second.leads
        first._leadership.keep_ledger(session, {"floor": 99.0})
    with desk.sessions() as session:
        assert leases.read_ledger(session, "scheduler") == {}


def test_pins_and_limits_are_read_from_the_rows(desk: Desk) -> None:
    small = add_worker(desk.sessions, "small", WorkerReport(memory_total=8 * 10**9))
    large = add_worker(desk.sessions, "large", WorkerReport(memory_total=24 * 10**9, tags=("a100",)))
    pinned = [add_job(desk.sessions, min_memory=16 * 10**9), add_job(desk.sessions, worker_tags=["a100"])]
    nowhere = add_job(desk.sessions, worker_tags=["h100"], min_memory=80 * 10**9)
    with desk.sessions.begin() as session:
        key, other = (
            users.find_by_key(session, users.create_key(session, STRANGER, "script", NOW, running_limit=limit), NOW)
            for limit in (1, None)
        )  # fmt: skip
        assert key is not None
        assert other is not None
        assert key.limited_key is not None
        assert other.limited_key is None
        users.set_user(session, OWNER, running_limit=0)
        users.set_user(session, STRANGER, running_limit=3)
    flood = [add_job(desk.sessions, owner=STRANGER, key_id=key.limited_key) for _ in range(150)]
    free = add_job(desk.sessions, owner=STRANGER)
    desk.running_limit = 2
    desk.lead()
    assert [job_row(desk.sessions, job).worker_id for job in pinned] == [large] * 2
    assert told_of(desk.sessions, nowhere).because == "no worker with 80 GB tagged h100 is up"
    assert job_row(desk.sessions, flood[0]).worker_id == small
    assert job_row(desk.sessions, free).worker_id == small
    assert "as that key may have at once" in told_of(desk.sessions, flood[1]).because
