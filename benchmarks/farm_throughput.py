"""Jobs per second through the whole farm with the sampling taken out (one step of the built-in model), at 1 and 2 workers.

Peer: plain Celery running as many tasks that do nothing but count, on the same Redis, with as many worker processes.
What Farm does more per job: two scheduler decisions in SQL, claim, heartbeat, one denoising step, decode, PNG, upload, record.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from tests.support.farm import RunningFarm, running_farm

JOBS = 60


def farm_rate(farm: RunningFarm) -> float:
    """Jobs per second from submission of a batch to the last recorded result."""
    client = farm.client()
    matrix = {
        "name": "throughput",
        "base": {"prompt": "a red circle", "steps": 1, "guidance_scale": 1.0, "priority": "bulk"},
        "axes": {"seed": list(range(JOBS))},
    }
    began = time.perf_counter()
    batch = client.post("/batches", matrix)["id"]
    while True:
        states = client.get(f"/batches/{batch}")["states"]
        if states.get("succeeded", 0) == JOBS:
            return JOBS / (time.perf_counter() - began)
        assert not states.get("failed"), states
        time.sleep(0.05)


def celery_rate(redis_url: str, workers: int) -> float:
    """Tasks per second of plain Celery from the first publish to the last count."""
    environment = {**os.environ, "PEER_REDIS_URL": redis_url}
    os.environ["PEER_REDIS_URL"] = redis_url
    # the module reads the address when it is imported, and each farm has a Redis of its own
    peer = importlib.reload(importlib.import_module("benchmarks._celery_peer"))
    app, count = peer.app, peer.count

    client = redis.Redis.from_url(redis_url)
    client.delete("peer:done")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "benchmarks._celery_peer", "worker", "-P", "solo", "-l", "ERROR",
             "-n", f"peer{number}", "--without-gossip", "--without-mingle"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for number in range(workers)
    ]  # fmt: skip
    try:
        for _ in range(workers * 2):
            count.delay()
        while int(client.get("peer:done") or 0) < workers * 2:
            time.sleep(0.05)
        client.delete("peer:done")
        began = time.perf_counter()
        for _ in range(JOBS):
            count.delay()
        while int(client.get("peer:done") or 0) < JOBS:
            time.sleep(0.01)
        return JOBS / (time.perf_counter() - began)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
        app.close()


def main() -> None:
    results = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder, running_farm(Path(folder), workers=workers) as farm:
            farm_rate(farm)  # warm: model loaded, caches filled
            ours = farm_rate(farm)
            peer = celery_rate(farm.info["redis_url"].rsplit("/", 1)[0] + "/5", workers)
        results[workers] = {"farm_jobs_per_s": ours, "celery_tasks_per_s": peer, "ratio": ours / peer}
        print(
            f"{workers} worker(s): farm {ours:.1f} jobs/s, plain Celery {peer:.1f} tasks/s, ratio {ours / peer:.3f}"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
