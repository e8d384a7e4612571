"""A long queue: every question that pages, submission and the scheduler ask is answered by an index, in few statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Job, JobEvent, Tally, TallyChange
from farm.jobs import attempts, batch_views, control, estimate, line, tallies, views
from farm.jobs.image_views import pictures_of_batch
from farm.jobs.queue_views import queue_front
from farm.jobs.states import State
from farm.scheduler.snapshot import take_snapshot
from tests.support.crowd import FAILED, add_crowd
from tests.support.jobs import EPOCH, LATER, NOW, OWNER, STRANGER, add_worker, seed

Sessions = sessionmaker[Session]

#: enough for PostgreSQL to prefer a wrong index, were there one; a fraction of what production holds
ROWS = {"sqlite": 4_000, "postgresql": 40_000}
BATCH = "batch_00000002"

#: what is asked, and the index without which it would be slow; empty: jobs are not read at all
ASKED: dict[str, tuple[Callable[[Session], Any], str]] = {
    "the scheduler's window": (lambda s: take_snapshot(s, NOW, 2, ()), "ix_jobs_waiting"),
    "the top bar": (lambda s: views.queue_summary(s, OWNER), "ix_jobs_waiting"),
    "an estimate": (lambda s: estimate.read_queue(s, 2), "ix_jobs_waiting"),
    "workers": (views.worker_views, "ix_jobs_worker"),
    "what runs": (lambda s: views.list_jobs(s, OWNER, states=("running",)), "ix_jobs_owner_state"),
    "what waits": (lambda s: views.list_jobs(s, OWNER, states=("queued", "assigned")), "ix_jobs_owner_state"),
    "what failed": (lambda s: views.list_jobs(s, OWNER, states=("failed",)), "ix_jobs_owner_state"),
    "what is done": (lambda s: views.list_jobs(s, OWNER, states=("succeeded", "cancelled")), "ix_jobs_owner_state"),
    # of somebody with few: the owner of most jobs is found without
    "all jobs": (lambda s: views.list_jobs(s, "somebody"), "ix_jobs_owner_list"),
    "batches": (lambda s: views.list_batches(s, OWNER), ""),
    "a batch": (lambda s: views.batch_view(s, OWNER, BATCH), ""),
    "a job that waits": (lambda s: views.job_view(s, OWNER, "job_00001000"), "ix_jobs_owner_waiting"),
    "pictures of a batch": (lambda s: pictures_of_batch(s, OWNER, BATCH, limit=60), "ix_jobs_batch_list"),
    "the end of a batch": (lambda s: batch_views.last_start(s, BATCH, OWNER), "ix_jobs_batch_list"),
    "the front of the queue": (lambda s: queue_front(s, OWNER, None, mine=False, limit=30), "ix_jobs_waiting"),
    "one's own front": (lambda s: queue_front(s, OWNER, None, mine=True, limit=30), "ix_jobs_owner_waiting"),
    "jobs of a batch": (lambda s: views.list_jobs(s, OWNER, batch=BATCH), "ix_jobs_batch_list"),
    "failed rows": (lambda s: list(batch_views.failed_rows(s, OWNER, "batch_00000001")), "ix_jobs_batch_list"),
    "cancel a batch": (lambda s: control.cancel_batch(s, OWNER, BATCH, LATER), "ix_jobs_batch_list"),
    "retry a batch": (lambda s: control.retry_failed(s, OWNER, BATCH, LATER), "ix_jobs_batch_list"),
}  # fmt: skip


@contextmanager
def watched(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """Statements with their parameters, as they are sent."""
    sent: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not many:
            sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def crowd(sessions: Sessions, engine: Engine) -> Sessions:
    seed(sessions)
    add_worker(sessions, "gpu-0")
    with sessions() as session:
        add_crowd(session, ROWS[engine.dialect.name])
    return sessions


def plan_of(session: Session, statement: str, parameters: Any) -> list[str]:
    """How the database would do it, a line a step."""
    how = "explain query plan " if session.get_bind().dialect.name == "sqlite" else "explain "  # type: ignore[union-attr]
    rows = session.connection().exec_driver_sql(how + statement, parameters)
    return [str(row[-1]) for row in rows]


def test_every_question_is_answered_by_an_index(crowd: Sessions, engine: Engine) -> None:
    for name, (ask, index) in ASKED.items():
        with crowd() as session:
            with watched(engine) as sent:
                ask(session)
            plans = [
                f"{statement}\n" + "\n".join(plan_of(session, statement, parameters))
                for statement, parameters in sent
                if "jobs" in statement
            ]
            session.rollback()
        for plan in plans:
            assert "Seq Scan on jobs" not in plan, f"{name}: {plan}"
            assert "\nSCAN jobs" not in plan, f"{name}: {plan}"
        told = f"{name}: " + "\n\n".join(plans)
        assert any(index in plan for plan in plans) if index else not plans, told


def test_a_rounds_assignments_are_one_statement_that_goes_by_their_ids(
    crowd: Sessions, engine: Engine
) -> None:
    wanted = [(f"job_{number:08}", 0, "worker_x") for number in range(300)]
    with crowd() as session:
        with watched(engine) as sent:
            given = attempts.assign_all(session, wanted, LATER, epoch=EPOCH)
        (statement, parameters), *others = [item for item in sent if "UPDATE jobs" in item[0]]
        assert len(given) > 200
        assert not others
        plan = "\n".join(plan_of(session, statement, parameters))
        session.rollback()
    assert "pk_jobs on jobs" in plan or "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)" in plan, plan


def test_cancel_and_retry_of_a_batch_take_as_many_statements_as_of_one_job(
    crowd: Sessions, engine: Engine
) -> None:
    with crowd.begin() as session:
        open_jobs = views.batch_view(session, OWNER, BATCH)["states"]["queued"]
        with watched(engine) as sent:
            assert control.cancel_batch(session, OWNER, BATCH, LATER) == open_jobs > 200
        assert len([1 for statement, _ in sent if statement.startswith("UPDATE jobs")]) == 1
        assert len(sent) <= 6, sent
    failed_batch = "batch_00000001"
    with crowd.begin() as session:
        failed = views.batch_view(session, OWNER, failed_batch)["states"]["failed"]
        with watched(engine) as sent:
            assert control.retry_failed(session, OWNER, failed_batch, LATER) == failed > 0
        assert len([1 for statement, _ in sent if statement.startswith("UPDATE jobs")]) == 1
        assert len(sent) <= 4, sent
        assert views.batch_view(session, OWNER, failed_batch)["states"]["failed"] == 0
        noted = select(JobEvent.transition, func.count()).group_by(JobEvent.transition)
        assert dict(session.execute(noted).tuples().all()) == {"cancel": open_jobs, "retry": failed}


def test_failed_rows_are_those_of_the_batch_in_its_order(crowd: Sessions) -> None:
    with crowd() as session:
        rows = list(batch_views.failed_rows(session, OWNER, "batch_00000001"))
        assert len(rows) == views.batch_view(session, OWNER, "batch_00000001")["states"]["failed"]
        assert list(batch_views.failed_rows(session, STRANGER, "batch_00000001")) == []
    assert [row["row"] for row in rows] == sorted(row["row"] for row in rows)
    assert all(row["row"] % FAILED == 1 for row in rows)
    assert rows[0]["error"] == {"code": "bad_file", "message": "the file is damaged"}
    assert rows[0]["job"]["prompt"].startswith("a fox in the snow")


@pytest.mark.parametrize("states", [(), ("queued", "failed"), ("succeeded", "cancelled", "running")])
@pytest.mark.parametrize("batch", [None, BATCH, "batch_00000001"])
def test_a_list_of_several_states_is_the_plain_list(
    sessions: Sessions, states: tuple[str, ...], batch: str | None
) -> None:
    seed(sessions)
    with sessions() as session:
        add_crowd(session, 400)
        wanted = [Job.owner_id == OWNER]
        wanted += [Job.state.in_(states)] if states else []
        wanted += [Job.batch_id == batch] if batch else []
        plain = list(session.scalars(select(Job.id).where(*wanted).order_by(Job.id.desc())))
        found: list[str] = []
        cursor = ""
        while True:
            page = views.list_jobs(session, OWNER, states=states, batch=batch, cursor=cursor, limit=17)
            found += [job["id"] for job in page.items]
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
    assert found == plain


def test_tallies_say_what_counting_says(crowd: Sessions, engine: Engine) -> None:
    """After many rows of one statement, and moves of single ones; before and after they are added up."""
    with crowd.begin() as session:
        control.cancel_batch(session, OWNER, BATCH, LATER)
        control.retry_failed(session, OWNER, "batch_00000001", LATER)
        control.set_priority(session, OWNER, "job_00000005", "interactive", LATER)
    for _ in range(2):
        with crowd() as session:
            for batch in ("batch_00000001", BATCH):
                counted = select(Job.state, func.count()).where(Job.batch_id == batch).group_by(Job.state)
                shown = {state: n for state, n in tallies.of_batches(session, [batch])[batch].items() if n}
                assert shown == dict(session.execute(counted).tuples().all())
            key = (Job.owner_id, Job.priority, Job.state)
            waiting = select(*key, func.count()).where(Job.state == State.QUEUED).group_by(*key)
            assert sorted(tallies.open_jobs(session)) == sorted(session.execute(waiting).tuples().all())
        with crowd.begin() as session:
            tallies.add_up(session)
    with crowd() as session:
        assert session.scalar(select(func.count()).select_from(TallyChange)) == 0
        assert session.scalar(select(func.count()).select_from(Tally).where(Tally.n <= 0)) == 0


def test_every_place_in_a_long_line_is_known(crowd: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "COUNTED", 50)
    with crowd() as session:
        total = len(views.list_jobs(session, OWNER, states=("queued",), limit=1).items)
        assert total == 1
        mine = list(
            session.scalars(
                select(Job.id).where(Job.owner_id == OWNER, Job.state == State.QUEUED).order_by(Job.id)
            )
        )
        summary = views.queue_summary(session, OWNER)
        assert summary["mine"]["queued"] == len(mine)
        for place in (0, 3, 49, 50, 51, len(mine) // 2, len(mine) - 51, len(mine) - 1):
            jobs = [session.get_one(Job, mine[place])]
            assert line.before(session, jobs, {(OWNER, 2): len(mine)}) == {mine[place]: place}
        some = mine[7:300:5]
        jobs = [session.get_one(Job, job) for job in some]
        expected = {job: mine.index(job) for job in some}
        assert line.before(session, jobs, {(OWNER, 2): len(mine), (OWNER, 0): 0}) == expected
        shifted = {job: place + 9 for job, place in expected.items()}
        assert line.before(session, jobs, {(OWNER, 2): len(mine), (OWNER, 0): 9}) == shifted


def test_the_rest_of_a_long_queue_is_taken_to_be_like_its_front(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(sessions)
    with sessions() as session:
        add_crowd(session, 600)
        exact = {work.batch_key: work.steps for work in estimate.read_queue(session)}
        queued = session.scalar(select(func.count()).where(Job.state == State.QUEUED)) or 0
        assert sum(exact.values()) == queued * 20
        monkeypatch.setattr(estimate, "FRONT", 150)
        guessed = {work.batch_key: work.steps for work in estimate.read_queue(session)}
        assert guessed.keys() == exact.keys()
        assert sum(guessed.values()) == pytest.approx(queued * 20, abs=3)
        assert all(guessed[key] == pytest.approx(exact[key], rel=0.1) for key in exact)
        assert estimate.read_queue(session, 0) == []
