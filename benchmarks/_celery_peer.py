"""The plain Celery application that the farm is compared with: one task that only counts."""

from __future__ import annotations

import os

import redis
from celery import Celery

_client = redis.Redis.from_url(os.environ["PEER_REDIS_URL"])
app = Celery("peer", broker=os.environ["PEER_REDIS_URL"])
app.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1)


@app.task
def count() -> None:
    """Adds one to a counter in Redis, so that the end of the run can be seen."""
    _client.incr("peer:done")
