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

#: Many steps, so that a kill hits the middle.
LONG = {
    "prompt": "a red circle on a blue background <lora:ink:0.2@1,0.9@20>",
    "width": 64,
    "height": 64,
    "steps": 40,
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


def test_sigkill_of_a_worker_in_mid_sampling_gives_one_result_and_the_same_picture(tmp_path: Path) -> None:
    with running_farm(tmp_path, workers=1, environment={"FARM_CHECKPOINT_SECONDS": "0.1"}) as farm:
        client = farm.client()
        calm = until(ended(farm, client.submit(LONG)["id"]), 240)
        assert calm["state"] == "succeeded", calm
        job_id = client.submit(LONG)["id"]
        until(checkpointed(farm, job_id), 120)
        os.kill(farm.pid("worker-1"), signal.SIGKILL)
        job = until(ended(farm, job_id), 240)
        assert job["state"] == "succeeded", (job, farm.logs())
        assert job["attempt"] == 2
        (went_on,) = [event for event in job["events"] if event["transition"] == "resume"]
        assert went_on["detail"].startswith("went on from step ")
        assert len(job["images"]) == 1
        assert job["images"][0]["sha256"] == calm["images"][0]["sha256"] or _pixels(client, job) == _pixels(
            client, calm
        )


def _pixels(client: Any, job: dict[str, Any]) -> bytes:
    from io import BytesIO

    from PIL import Image

    answer = client.request("GET", f"/images/{job['images'][0]['id']}/content")
    if answer.is_redirect:
        import httpx

        answer = httpx.get(answer.headers["location"])
    return Image.open(BytesIO(answer.content)).tobytes()


def test_a_job_that_kills_its_worker_three_times_fails_with_the_reason(tmp_path: Path) -> None:
    with running_farm(tmp_path, workers=1) as farm:
        job_id = farm.client().submit(LONG)["id"]
        for attempt in (1, 2, 3):
            until(
                lambda attempt=attempt: (
                    (job := sampling(farm, job_id)()) and job["attempt"] == attempt and job
                ),
                90,
            )
            os.kill(farm.pid("worker-1"), signal.SIGKILL)
        job = until(ended(farm, job_id), 180)
        assert job["state"] == "failed"
        assert "3 times" in job["error"]["message"]


def test_redis_killed_with_its_data_loses_nothing(tmp_path: Path) -> None:
    with running_farm(tmp_path, workers=1) as farm:
        client = farm.client()
        jobs = [
            client.submit({"prompt": "a yellow star", "steps": 30, "seed": seed})["id"] for seed in range(4)
        ]
        os.kill(farm.pid("redis"), signal.SIGKILL)
        for job_id in jobs:
            assert until(ended(farm, job_id), 240)["state"] == "succeeded"


def test_a_killed_scheduler_is_replaced(tmp_path: Path) -> None:
    with running_farm(tmp_path, workers=1) as farm:
        os.kill(farm.pid("scheduler"), signal.SIGKILL)
        job_id = farm.client().submit({"prompt": "a green tree", "steps": 4})["id"]
        assert until(ended(farm, job_id), 120)["state"] == "succeeded"
def test_g01_each_process_of_a_farm_is_killed_while_it_works_and_no_job_is_lost(tmp_path: Path) -> None:
    with running_farm(tmp_path, workers=1) as farm:
        client = farm.client()
        for name, attempts in (("worker-1", 2), ("redis", 1), ("scheduler", 1)):
            job_id = client.submit(LONG)["id"]
            until(sampling(farm, job_id), farm)
            later = client.submit({**LONG, "steps": 4})["id"]
            os.kill(farm.pid(name), signal.SIGKILL)
            job = until(ended(farm, job_id), farm)
            assert (job["state"], job["attempt"]) == ("succeeded", attempts), (name, farm.logs())
            assert len(job["images"]) == 1
            assert until(ended(farm, later), farm)["state"] == "succeeded", (name, farm.logs())
