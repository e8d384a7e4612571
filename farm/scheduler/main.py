"""Entry point of a scheduler process: wires settings, SQL and Redis to the loop, and stops on SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from farm.clock import SystemClock
from farm.db.engine import make_engine, make_sessions
from farm.logs import configure_logging
from farm.queue.celery import make_app
from farm.queue.events import Event, publish
from farm.queue.messages import RenderMessage, send_render
from farm.queue.redis import connect
from farm.queue.wake import wait
from farm.scheduler.loop import Effects, Scheduler, Timers
from farm.scheduler.webhooks import deliver
from farm.settings import Settings


def run(settings: Settings) -> None:
    """Schedule until SIGTERM or SIGINT."""
    configure_logging(settings.log_level)
    clock = SystemClock()
    redis_url = settings.redis_url.get_secret_value()
    app, redis = make_app(redis_url), connect(redis_url)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    def send(worker_id: str, job_id: str, attempt: int) -> None:
        send_render(app, worker_id, RenderMessage(job=job_id, attempt=attempt))

    def wait_for_bell(seconds: float) -> None:
        if not wait(redis, seconds):
            return
        # a burst of submissions rings once for all of them
        stopping.wait(0.02)

    def tell(topic: str, owner: str, data: dict[str, object]) -> None:
        publish(redis, Event(topic=topic, type=topic.removesuffix("s"), owner=owner, data=data))

    secret = settings.secret_key.get_secret_value()
    Scheduler(
        make_sessions(make_engine(settings.resolved_database_url())),
        Effects(
            send=send,
            wait=wait_for_bell,
            tell=tell,
            deliver=partial(_deliver, secret, settings.webhook_private),
        ),
        clock,
        Timers(
            round_seconds=settings.round_seconds,
            lease_seconds=settings.lease_seconds,
            leader_lease_seconds=settings.leader_lease_seconds,
            claim_seconds=settings.claim_seconds,
        ),
        holder=f"{socket.gethostname()}:{os.getpid()}",
        window=settings.window,
        crash_limit=settings.crash_limit,
    ).run(stopping.is_set)


def _deliver(
    secret: str, private: bool, url: str, message_id: str, payload: Mapping[str, Any], now: datetime
) -> None:
    deliver(url, message_id, payload, secret=secret, now=now, private=private)
