"""A web process is killed right before or after it commits; the client tries again with its key."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from farm.db.models import Batch, Job
from farm.embedded.servers import SeaweedServer
from farm.settings import Settings
from tests.chaos.fleet import CONTEXT
from tests.support.web import WebFarm, fresh_farm, web_app

pytestmark = pytest.mark.timeout(120)

When = Literal["before", "after"]
KEY = {"Idempotency-Key": "once"}
REQUESTS: dict[str, Any] = {
    "/jobs": {"prompt": "a fox", "seed": 1},
    "/batches": {"rows": [{"prompt": "a fox", "seed": seed} for seed in range(200)]},
}


def post(settings: Settings, api_key: str, path: str, when: When) -> None:
    """A web process that is killed around the commit of the jobs that it was sent."""
    from farm.web.app import create_app

    app = create_app(settings)
    engine = app.extensions["farm"].engine
    written: list[str] = []

    @event.listens_for(engine, "after_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO jobs"):
            written.append(statement)

    def die(*_: Any) -> None:
        if written:
            os.kill(os.getpid(), signal.SIGKILL)

    if when == "before":
        event.listen(engine, "commit", die)
    else:
        event.listen(Session, "after_commit", die)
    headers = {"Authorization": f"Bearer {api_key}", **KEY}
    app.test_client().post(f"/api/v1{path}", json=REQUESTS[path], headers=headers)


@pytest.fixture
def farm(tmp_path: Path, sqlite_template: Path, redis_url: str, seaweed: SeaweedServer) -> Iterator[WebFarm]:
    made = fresh_farm(web_app(tmp_path / "web", sqlite_template, redis_url, seaweed))
    yield made
    made.services.engine.dispose()


def ids(farm: WebFarm) -> list[str]:
    with farm.services.sessions() as session:
        return list(session.scalars(select(Job.id)))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("path", ["/jobs", "/batches"])
def test_g01_g15_a_web_process_killed_around_its_commit_accepts_all_once_or_nothing(
    farm: WebFarm, redis_url: str, seaweed: SeaweedServer, path: str, when: When
) -> None:
    settings = Settings(
        data_dir=farm.folder, database_url=str(farm.services.engine.url), redis_url=redis_url,
        s3_endpoint=seaweed.endpoint, s3_access_key=seaweed.access_key, s3_secret_key=seaweed.secret_key,
        s3_bucket=seaweed.bucket,
    )  # type: ignore[arg-type]  # fmt: skip
    doomed = CONTEXT.Process(target=post, args=(settings, farm.key, path, when), daemon=True)
    doomed.start()
    doomed.join(60)
    assert doomed.exitcode == -signal.SIGKILL
    total = len(REQUESTS[path].get("rows", (None,)))
    before = ids(farm)
    assert len(before) == (0 if when == "before" else total)
    again = farm.post(path, REQUESTS[path], headers=KEY)
    assert again.status_code == 202
    assert again.headers.get("Idempotent-Replayed") == ("true" if when == "after" else None)
    after = ids(farm)
    assert len(after) == total
    assert when == "before" or after == before
    if path == "/jobs":
        assert after == [again.get_json()["id"]]
    else:
        with farm.services.sessions() as session:
            assert session.scalars(select(Batch.id)).all() == [again.get_json()["id"]]
