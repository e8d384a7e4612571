"""Entry point of a scheduler process: wires settings, SQL and Redis to the loop, and stops on SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
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
from farm.scheduler.aside import Aside
from farm.scheduler.loop import Effects, Scheduler, Timers
from farm.scheduler.storewatch import StoreWatch
from farm.scheduler.sweep import sweep_store
from farm.scheduler.webhooks import deliver
from farm.settings import Settings
from farm.store.s3 import open_store


def run(settings: Settings) -> None:
    """Schedule until SIGTERM or SIGINT."""
    configure_logging(settings.log_level)
    clock = SystemClock()
    redis_url = settings.redis_url.get_secret_value()
    app, redis = make_app(redis_url), connect(redis_url)
    # a plain list: the handler runs in this very thread and must not wait for a lock
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))

    def send(worker_id: str, job_id: str, attempt: int) -> None:
        send_render(app, worker_id, RenderMessage(job=job_id, attempt=attempt))

    def wait_for_bell(seconds: float) -> None:
        if not wait(redis, seconds):
            return
        # a burst of submissions rings once for all of them
        clock.sleep(0.02)

    def tell(topic: str, owner: str, data: dict[str, object]) -> None:
        publish(redis, Event(topic=topic, type=topic.removesuffix("s"), owner=owner, data=data))

    sessions, store = make_sessions(make_engine(settings.resolved_database_url())), open_store(settings)
    secret = settings.secret_key.get_secret_value()
    Scheduler(
        sessions,
        Effects(
            send=send,
            wait=wait_for_bell,
            tell=tell,
            deliver=partial(_deliver, secret, settings.webhook_private),
            aside=Aside("webhooks"),
            sweep=partial(sweep_store, sessions, store),
            store_away=StoreWatch(
                open_store(settings, patient=False).answer, clock, Aside("store")
            ).away_since,
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
        running_limit=settings.running_limit,
    ).run(lambda: bool(signals))


def _deliver(
    secret: str, private: bool, url: str, message_id: str, payload: Mapping[str, Any], now: datetime
) -> None:
    deliver(url, message_id, payload, secret=secret, now=now, private=private)
