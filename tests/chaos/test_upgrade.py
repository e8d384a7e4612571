"""The farm is brought to another version while it works."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from farm.db.engine import make_engine, migrate
from farm.queue.celery import TASK, make_app, queue_name
from tests.chaos.fleet import Fault, Fleet
from tests.chaos.test_workers import up

pytestmark = pytest.mark.timeout(240)

TABLES = ("jobs", "attempts", "job_events", "images", "outbox", "workers", "leases", "users", "models")
#: what a next version may do to the schema while this one runs: it adds, and gives what it adds a default
NEXT = (
    *(f"ALTER TABLE {table} ADD COLUMN later TEXT" for table in TABLES),
    *(f"ALTER TABLE {table} ADD COLUMN laters INTEGER NOT NULL DEFAULT 0" for table in TABLES),
    "CREATE TABLE later (id TEXT PRIMARY KEY)",
    "CREATE INDEX ix_jobs_later ON jobs (laters, later)",
    "UPDATE alembic_version SET version_num = 'next'",
)


def test_g14_the_next_schema_is_applied_while_this_code_works_and_starts(fleet: Fleet) -> None:
    url = fleet.rig.settings.database_url
    fleet.scheduler()
    fleet.worker("one", Fault("step", act="slow"))
    fleet.submit(3, steps=8)
    fleet.rig.wait_until(lambda: any(fleet.rig.job(job).step for job in fleet.jobs), fleet.logs)
    engine = make_engine(url)
    with engine.begin() as connection:
        for statement in NEXT:
            connection.execute(text(statement))
    # a process of this version that starts now, as after a rollback, leaves the schema alone and works
    migrate(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "next"
    engine.dispose()
    fleet.worker("two")
    fleet.submit(3)
    fleet.finished()
    counts = {(job.attempt, job.crash_count, job.retry_count) for job in map(fleet.rig.job, fleet.jobs)}
    assert counts == {(1, 0, 0)}, fleet.logs()


class TestMessages:
    """What is the same on every database."""

    @pytest.fixture
    def database_url(self, sqlite_url: str) -> str:
        return sqlite_url

    def test_g14_a_message_of_another_version_is_put_aside_and_its_job_runs(self, fleet: Fleet) -> None:
        rig = fleet.rig
        fleet.worker("one")
        worker = up(rig, "one")
        app = make_app(rig.settings.redis_url.get_secret_value())
        jobs = fleet.submit(2)
        attempt = rig.assign(jobs[0], worker, send=False)
        for body in (
            {"v": 2, "job": jobs[0], "attempt": attempt, "more": [1]},
            {"v": "x"},
            {},
        ):
            app.send_task(TASK, kwargs=body, queue=queue_name(worker), ignore_result=True)
        rig.wait_until(lambda: fleet.logs().count("message_not_understood") == 3, fleet.logs)
        # the first job is found in SQL, and a message of this version is understood as before
        rig.assign(jobs[1], worker)
        fleet.finished()
        app.close()
