"""The whole farm as its user starts it: each of its processes is killed while it works, and is replaced."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
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


def ended(farm: RunningFarm, job_id: str) -> Callable[[], Any]:
    def look() -> Any:
        job = farm.client().get(f"/jobs/{job_id}")
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    return look


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
