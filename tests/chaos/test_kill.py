"""The whole farm as its user starts it: each of its processes is killed while it works, and is replaced."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.farm import RunningFarm, running_farm

pytestmark = pytest.mark.timeout(600)

#: Many steps, so that a kill hits the middle, and is heard of before the end.
LONG = {
    "prompt": "a red circle on a blue background <lora:ink:0.2@1,0.9@20>",
    "width": 64,
    "height": 64,
    "steps": 120,
    "seed": 7,
}


def until(condition: Callable[[], Any], farm: RunningFarm, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"it did not come to pass:\n{farm.logs()}")


def sampling(farm: RunningFarm, job_id: str) -> Callable[[], Any]:
    def look() -> Any:
        job = farm.client().get(f"/jobs/{job_id}")
        return job if job["state"] == "running" and job["step"] >= 3 else None

    return look


def checkpointed(farm: RunningFarm, job_id: str) -> Callable[[], Any]:
    """Whether the job runs and another worker could go on with it."""
    look = "select checkpoint_step from jobs where id = ? and state = 'running'"
    (database,) = farm.folder.glob("*.db")

    def ask() -> Any:
        with closing(sqlite3.connect(database)) as connection:
            row = connection.execute(look, [job_id]).fetchone()
        return row and row[0]

    return ask


def ended(farm: RunningFarm, job_id: str) -> Callable[[], Any]:
    def look() -> Any:
        job = farm.client().get(f"/jobs/{job_id}")
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    return look


def test_g01_each_process_of_a_farm_is_killed_while_it_works_and_no_job_is_lost(tmp_path: Path) -> None:
    timers = {"FARM_CHECKPOINT_SECONDS": "0.1", "FARM_HEARTBEAT_SECONDS": "0.2"}
    with running_farm(tmp_path, workers=1, environment=timers) as farm:
        client = farm.client()
        for name, attempts in (("worker-1", 2), ("redis", 1), ("scheduler", 1)):
            job_id = client.submit(LONG)["id"]
            until(checkpointed(farm, job_id) if name == "worker-1" else sampling(farm, job_id), farm)
            later = client.submit({**LONG, "steps": 4})["id"]
            os.kill(farm.pid(name), signal.SIGKILL)
            job = until(ended(farm, job_id), farm)
            assert (job["state"], job["attempt"]) == ("succeeded", attempts), (name, farm.logs())
            assert len(job["images"]) == 1
            went_on = [event["detail"] for event in job["events"] if event["transition"] == "resume"]
            assert [text.startswith("went on from step ") for text in went_on] == [True] * (attempts - 1)
            assert until(ended(farm, later), farm)["state"] == "succeeded", (name, farm.logs())
