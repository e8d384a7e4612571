"""Plain Celery with late acknowledgement on the farm's own Redis: its worker is killed in the middle of a task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import redis
from celery import Celery

_URL = os.environ.get("PEER_REDIS_URL", "redis://127.0.0.1:1/0")
_client = redis.Redis.from_url(_URL)
app = Celery("recovery_peer", broker=_URL)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"visibility_timeout": float(os.environ.get("PEER_VISIBILITY", "3600"))},
)


@app.task
def work(seconds: float) -> None:
    """Notes who began it, and sleeps."""
    _client.rpush("peer:began", f"{os.getpid()} {time.monotonic()}")
    time.sleep(seconds)


def redelivery(redis_url: str, visibility: float) -> float:
    """Seconds from `kill -9` of a worker until another one begins the task that it held."""
    environment = {**os.environ, "PEER_REDIS_URL": redis_url, "PEER_VISIBILITY": str(visibility)}
    client = redis.Redis.from_url(redis_url)
    client.delete("peer:began")
    sender = Celery("recovery_peer", broker=redis_url)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "benchmarks._recovery_peer", "worker", "-P", "solo", "-l", "ERROR",
             "-n", f"peer{number}", "--without-gossip", "--without-mingle"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        sender.send_task("benchmarks._recovery_peer.work", args=[6.0])
        first, _ = _began(client, 0)
        killed = time.monotonic()
        os.kill(first, signal.SIGKILL)
        _, again = _began(client, 1)
        return again - killed
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        sender.close()


def _began(client: redis.Redis, place: int) -> tuple[int, float]:
    """Process and time (of the machine's monotonic clock) of a start of the task, once there is one."""
    while (found := client.lindex("peer:began", place)) is None:
        time.sleep(0.02)
    pid, moment = found.split()  # type: ignore[union-attr]
    return int(pid), float(moment)
