"""A farm's history, written as a trace and simulated again: jobs, rates and the failure of a worker are all there."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from farm.cli.main import run as farm
from farm.errors import BadRequest
from farm.jobs import attempts, workers
from farm.jobs.reports import WorkerReport
from farm.scheduler.simulate.record import record
from farm.scheduler.simulate.recorded import read_trace
from farm.scheduler.simulate.run import run
from farm.scheduler.simulate.trace import Failure
from tests.support.jobs import MODEL_KEY, NOW, OWNER, STRANGER, add_job, add_worker, seed, start

INK, OIL = "1" * 64, "2" * 64


def networks(*items: tuple[str, int]) -> list[dict[str, object]]:
    return [{"name": "any", "sha256": sha256, "size": size} for sha256, size in items]


def at(seconds: float) -> dict[str, Any]:
    return {"created_at": NOW + timedelta(seconds=seconds)}


def test_the_history_of_a_farm_is_simulated_again(sessions: sessionmaker[Session]) -> None:
    seed(sessions)
    report = WorkerReport(seconds_per_step={"k": 0.5}, load_seconds={MODEL_KEY: 3.0})
    first, second = add_worker(sessions, "one", report), add_worker(sessions, "two")
    a = add_job(sessions, networks=networks((OIL, 20), (INK, 10)), steps=8, count=2, **at(0))
    b = add_job(sessions, owner=STRANGER, priority=0, batch_key="other", **at(1.5))
    add_job(sessions, priority=2, networks=networks((INK, 10)), **at(4))
    add_job(sessions, kind="extract", **at(5))
    # the second worker dies with its job; the farm finds out after a minute, and it is back after two
    begun = NOW + timedelta(seconds=10)
    attempt = start(sessions, b, second, begun)
    with sessions.begin() as session:
        assert attempts.lose(session, b, attempt, 0, crash_limit=9, now=begun + timedelta(seconds=60))
    start(sessions, b, second, begun + timedelta(seconds=120))
    attempt = start(sessions, a, first, NOW + timedelta(seconds=11))
    with sessions.begin() as session:
        assert attempts.succeed(session, a, attempt, [], {}, NOW + timedelta(seconds=20))
        workers.leave(session, first, NOW + timedelta(seconds=30))

    with sessions() as session:
        lines = list(record(session, NOW + timedelta(seconds=600)))
    assert "a fox" not in "".join(lines)
    assert OWNER not in "".join(lines)
    trace = read_trace("mine", lines)
    assert trace.workers == 2
    assert trace.failures == (Failure(at=40.0, worker=1, seconds=90.0),)
    asks = list(trace.asks)
    assert [(ask.at, ask.key.owner_id, ask.key.priority, ask.steps) for ask in asks] == [
        (0.0, "user-1", 1, 16), (1.5, "user-2", 0, 4), (4.0, "user-1", 2, 4),
    ]  # fmt: skip
    assert asks[0].key.need.adapters == ((INK[:16], 10), (OIL[:16], 20))
    assert {ask.key.need.model_key for ask in asks} == {"tiny"}
    assert [ask.key.batch_key for ask in asks] == ["k", "other", "k"]
    # as measured where it was
    assert (asks[0].seconds, asks[0].load_seconds, asks[0].key.need.model_bytes) == (8.0, 3.0, 10)
    ended: list[int] = []
    run(trace, 2, "farm", 1, lambda: 0.0, note=lambda job, *_: ended.append(job))
    assert sorted(ended) == [0, 1, 2]


def test_an_empty_farm_has_nothing_to_record(sessions: sessionmaker[Session]) -> None:
    with sessions() as session, pytest.raises(BadRequest, match="no jobs yet"):
        list(record(session, NOW))


def test_the_command_records_and_replays(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from farm.db.engine import make_engine, make_sessions

    engine = make_engine(sqlite_url)
    sessions = make_sessions(engine)
    seed(sessions)
    for number in range(3):
        add_job(sessions, **at(number))
    engine.dispose()
    monkeypatch.setenv("FARM_DATABASE_URL", sqlite_url)
    file = tmp_path / "night.jsonl"
    assert farm(["simulate", "--record", str(file)]) == 0
    assert "Next: farm simulate --trace" in capsys.readouterr().out.replace("\n", " ")
    assert farm(["simulate", "--trace", str(file), "--workers", "2"]) == 0
    assert "night.jsonl (recorded): 3 jobs on 2 workers" in capsys.readouterr().out
    assert farm(["simulate", "--trace", str(file), "--load", "0.5"]) == 2
