"""A database and a store that were restored from different days."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from farm.cli.main import run
from farm.embedded.up import environment_of
from farm.store import keys
from tests.chaos.fleet import Fleet
from tests.support import jobs as rows

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def test_g18_what_a_restore_tore_apart_is_named_and_crashes_nothing(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = fleet.rig
    fleet.scheduler()
    fleet.worker("one", cache_dir=tmp_path / "cold")
    (before,) = fleet.submit()
    fleet.finished()
    backup = tmp_path / "backup.db"
    with sqlite3.connect(tmp_path / "farm.db") as live:
        live.execute(f"VACUUM INTO '{backup}'")
    (after,) = fleet.submit()
    fleet.finished()
    # the database is older than the store, which has lost a picture besides
    rig.store.delete(keys.result(rows.OWNER, before, 1, 0))
    restored = rig.settings.model_copy(update={"database_url": f"sqlite:///{backup}"})
    for name, value in environment_of(restored).items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert run(["doctor", "--json"]) == 1
    objects = json.loads(capsys.readouterr().out)["objects"]
    assert objects["found"].count("missing: image") == 1
    assert (
        f"missing: image {rig.images(before)[0].id} ({keys.result(rows.OWNER, before, 1, 0)})"
        in objects["found"]
    )
    assert f"named by no row: {keys.result(rows.OWNER, after, 1, 0)}" in objects["found"]
    assert objects["remedy"]


def test_g18_a_job_whose_file_is_gone_fails_and_names_it(fleet: Fleet, tmp_path: Path) -> None:
    rig = fleet.rig
    ink = rig.add_adapter("ink", seed=4711)
    rig.store.delete(keys.blob(ink["sha256"]))
    fleet.scheduler()
    fleet.worker("one", cache_dir=tmp_path / "cold")
    (job,) = fleet.submit(prompt="a fox <lora:ink:0.8>")
    fleet.submit()
    fleet.finished("failed", "succeeded")
    assert rig.job(job).state == "failed"
    assert ink["sha256"] in str(rig.job(job).error_message)
