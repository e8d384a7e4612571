"""Two act on one job at the same moment, on both databases; both hear the truth."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from farm.db.engine import make_engine, make_sessions
from farm.db.models import Outbox
from farm.errors import Conflict
from farm.jobs import attempts, control
from farm.worker.held import Hands
from farm.worker.patience import Patience
from tests.support.databases import PostgresServer
from tests.support.jobs import (
    EPOCH,
    NOW,
    OWNER,
    add_job,
    add_worker,
    events_of,
    image_count,
    job_row,
    new_image,
    seed,
    start,
)
from tests.unit.worker.fakes import ManualClock

Sessions = sessionmaker[Session]
ROUNDS = 30


def together(*actions: Callable[[], Any]) -> list[Any]:
    """What each returned; all begin at once."""
    barrier = threading.Barrier(len(actions))
    answers: list[Any] = [None] * len(actions)

    def run(place: int, action: Callable[[], Any]) -> None:
        barrier.wait()
        answers[place] = action()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_g13_a_cancel_and_a_record_at_once_agree(sessions: Sessions) -> None:
    seed(sessions)
    worker = add_worker(sessions, "gpu-1")
    for _ in range(ROUNDS):
        job = add_job(sessions)
        attempt = start(sessions, job, worker)

        def cancel(job: str = job) -> str:
            try:
                with sessions.begin() as session:
                    return str(control.cancel(session, OWNER, job, NOW))
            except Conflict:
                return "too late"

        def record(job: str = job, attempt: int = attempt) -> bool:
            with sessions.begin() as session:
                return attempts.succeed(session, job, attempt, [new_image()], {}, NOW)

        answer, recorded = together(cancel, record)
        row = job_row(sessions, job)
        # a mark does not revoke: a result that is committed after it stands, as the answer "running" allows
        assert recorded
        assert answer in ("running", "too late")
        assert (row.cancel_requested_at is not None) == (answer == "running")
        assert (row.state, image_count(sessions, job)) == ("succeeded", 1)


def test_g13_a_cancel_and_its_acknowledgement_leave_nothing_for_a_record(sessions: Sessions) -> None:
    seed(sessions)
    worker = add_worker(sessions, "gpu-1")
    for _ in range(ROUNDS):
        job = add_job(sessions)
        attempt = start(sessions, job, worker)
        with sessions.begin() as session:
            control.cancel(session, OWNER, job, NOW)

        def acknowledge(job: str = job, attempt: int = attempt) -> bool:
            with sessions.begin() as session:
                return attempts.cancelled(session, job, attempt, NOW)

        def record(job: str = job, attempt: int = attempt) -> bool:
            with sessions.begin() as session:
                return attempts.succeed(session, job, attempt, [new_image()], {}, NOW)

        acknowledged, recorded = together(acknowledge, record)
        assert acknowledged != recorded
        assert job_row(sessions, job).state == ("succeeded" if recorded else "cancelled")
        assert image_count(sessions, job) == int(recorded)


def test_g11_two_leaders_assign_no_job_twice(sessions: Sessions) -> None:
    seed(sessions)
    workers = [add_worker(sessions, name) for name in ("gpu-1", "gpu-2")]
    for _ in range(ROUNDS):
        job = add_job(sessions)

        def assign(worker: str, job: str = job) -> bool:
            with sessions.begin() as session:
                return attempts.assign(session, job, 0, worker, NOW, epoch=EPOCH)

        first, second = together(*(lambda worker=worker: assign(worker) for worker in workers))
        assert first != second
        assert job_row(sessions, job).worker_id == workers[0 if first else 1]


@pytest.fixture
def postgres_engine(postgres: PostgresServer) -> Any:
    url = postgres.fresh()
    engine = make_engine(url)
    yield engine
    engine.dispose()
    postgres.drop(url)


def test_g13_a_cancel_while_the_job_goes_back_to_the_queue_is_not_lost(postgres_engine: Engine) -> None:
    """Between two statements of a cancel the leader takes the job from its lost worker: PostgreSQL lets both happen."""
    sessions = make_sessions(postgres_engine)
    seed(sessions)
    worker = add_worker(sessions, "gpu-1")
    job = add_job(sessions)
    attempt = start(sessions, job, worker)
    canceller = threading.current_thread()
    updates: list[str] = []
    losing: list[threading.Thread] = []

    def lose() -> None:
        with sessions.begin() as session:
            attempts.lose(session, job, attempt, 0, crash_limit=3, now=NOW)

    @event.listens_for(postgres_engine, "before_cursor_execute")
    def between(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread() is not canceller or not statement.startswith("UPDATE jobs"):
            return
        updates.append(statement)
        if len(updates) == 2:
            losing.append(threading.Thread(target=lose))
            losing[0].start()
            losing[0].join(0.5)

    with sessions.begin() as session:
        control.cancel(session, OWNER, job, NOW)
    losing[0].join()
    row = job_row(sessions, job)
    assert (row.state, row.cancel_requested_at) == ("cancelled", NOW)


@pytest.mark.parametrize("arrived", [False, True])
def test_g02_a_backend_terminated_in_the_middle_of_a_commit_leaves_one_result(
    postgres: PostgresServer, arrived: bool
) -> None:
    """The record's commit breaks off, before it reached the server or after; nobody knows, so it is tried again."""
    url = postgres.fresh()
    cut, engine = make_engine(url), make_engine(url)
    sessions = make_sessions(engine)
    seed(sessions)
    worker = add_worker(sessions, "gpu-1")
    job = add_job(sessions, webhook="https://hook.example/")
    attempt = start(sessions, job, worker)
    commits: list[int] = []

    @event.listens_for(cut, "commit")
    def terminate(connection: Any) -> None:
        commits.append(connection.connection.dbapi_connection.info.backend_pid)
        if len(commits) > 1:
            return
        if arrived:
            connection.connection.dbapi_connection.commit()
        with engine.begin() as other:
            assert other.scalar(text("select pg_terminate_backend(:pid, 5000)"), {"pid": commits[0]})
        if arrived:
            # what the driver says of a connection that ended while it waited for the answer
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    def record() -> bool:
        with make_sessions(cut).begin() as session:
            return attempts.succeed(session, job, attempt, [new_image()], {}, NOW)

    clock = ManualClock()
    assert Patience(hands=Hands(clock), clock=clock).until_done("record", record)
    assert len(commits) > 1
    assert job_row(sessions, job).state == "succeeded"
    assert image_count(sessions, job) == 1
    assert events_of(sessions, job).count("succeed") == 1
    with sessions() as session:
        assert len(session.scalars(select(Outbox.id)).all()) == 1
    for opened in (cut, engine):
        opened.dispose()
    postgres.drop(url)


def test_g03_a_worker_that_froze_within_a_transaction_does_not_hold_its_job(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.fresh()
    engine = make_engine(url)
    monkeypatch.setattr("farm.db.engine.IDLE_MILLISECONDS", 300)
    frozen = make_engine(url)
    sessions = make_sessions(engine)
    seed(sessions)
    worker = add_worker(sessions, "gpu-1")
    job = add_job(sessions)
    attempt = start(sessions, job, worker)
    heartbeat = make_sessions(frozen)()
    attempts.heartbeat(heartbeat, worker, [(job, attempt, "sampling", 1)])
    with sessions.begin() as session:
        session.execute(text("set local lock_timeout = '10s'"))
        assert attempts.lose(session, job, attempt, 0, crash_limit=3, now=NOW)
    with pytest.raises(DBAPIError):
        heartbeat.commit()
    heartbeat.close()
    assert job_row(sessions, job).state == "queued"
    for opened in (frozen, engine):
        opened.dispose()
    postgres.drop(url)
