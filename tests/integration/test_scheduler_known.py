"""What a leader knows of its workers is read again when their counters moved, and only then."""

from __future__ import annotations

from sqlalchemy import Engine, event, update
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Worker
from farm.jobs import workers
from farm.jobs.reports import WorkerReport
from farm.scheduler.known import Knowledge
from farm.scheduler.snapshot import take_snapshot
from tests.support.jobs import NOW, add_job, add_worker, seed, start


def test_a_report_is_read_when_its_worker_has_beaten(sessions: sessionmaker[Session], engine: Engine) -> None:
    seed(sessions)
    ids = [add_worker(sessions, name, WorkerReport(adapters=("ink",))) for name in ("one", "two")]
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *sent: asked.append(sent[2]))
    knowledge = Knowledge()

    def adapters() -> dict[str, frozenset[str]]:
        asked.clear()
        with sessions() as session:
            views = take_snapshot(session, NOW, 2, (), knowledge=knowledge).workers
        return {view.name: view.adapters for view in views}

    def reports_read() -> int:
        return sum("workers.report" in statement for statement in asked)

    assert adapters() == {"one": {"ink"}, "two": {"ink"}}
    assert reports_read() == 1
    assert adapters() == {"one": {"ink"}, "two": {"ink"}}
    assert reports_read() == 0
    with sessions.begin() as session:
        workers.beat(session, ids[1], WorkerReport(adapters=("oil",)), NOW)
    assert adapters() == {"one": {"ink"}, "two": {"oil"}}
    assert reports_read() == 1
    with sessions.begin() as session:
        session.execute(update(Worker).where(Worker.id == ids[0]).values(state="gone"))
    assert adapters() == {"two": {"oil"}}


def test_what_was_given_counts_as_held(sessions: sessionmaker[Session]) -> None:
    seed(sessions)
    worker = add_worker(sessions, "one", WorkerReport(seconds_per_step={"k": 0.5}))
    networks = [{"name": "ink", "sha256": "1" * 64, "size": 10}]
    start(sessions, add_job(sessions, steps=8, count=2, networks=networks), worker)
    with sessions() as session:
        (view,) = take_snapshot(session, NOW, 2, ()).workers
    assert (view.free_slots, view.busy_seconds, view.adapters) == (1, 8.0, frozenset({"1" * 64}))
