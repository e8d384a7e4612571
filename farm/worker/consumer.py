"""Celery's part: a consumer of this worker's own queue, in threads of this process, that can be started anew.

Celery's own signal handling, banner, remote control and events are not used; draining and stopping are the worker's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from celery import Celery
from celery.signals import setup_logging
from celery.worker import WorkController

from farm.queue.celery import TASK, make_app, queue_name
from farm.queue.messages import parse_render
from farm.queue.redis import answers

log = structlog.get_logger(__name__)


def _keep_our_logging(**_: object) -> None:
    """That somebody is connected to this signal keeps Celery from configuring logging."""


class Consumer:
    """Receives messages and calls `run(job, attempt)` in one of `threads` threads; acknowledged when it returns."""

    def __init__(self, redis_url: str, worker_id: str, run: Callable[[str, int], object], *, threads: int):
        self._redis_url = redis_url
        self._worker_id = worker_id
        self._run = run
        self._threads = threads
        self._controller: Any = None
        self._thread: threading.Thread | None = None
        #: messages received since the start of this process
        self.messages = 0

    def start(self) -> None:
        """Begin to listen; a Redis that is away is tried again for ever."""
        setup_logging.connect(_keep_our_logging)
        app = make_app(self._redis_url)
        self._register(app)
        # Celery's threads find their tasks through the default application of the process
        app.set_default()
        self._controller = WorkController(
            app=app,
            hostname=f"farm@{self._worker_id}",
            pool="threads",
            concurrency=self._threads,
            queues=[queue_name(self._worker_id)],
            prefetch_multiplier=1,
            task_events=False,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        self._thread = threading.Thread(
            target=self._consume, args=(self._controller,), name="consumer", daemon=True
        )
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Stop listening. Messages in work stay unacknowledged and go back to the queue, where they are stale."""
        if self._controller is not None:
            try:
                self._controller.stop()
            except Exception as error:
                # kombu reads from its connection while closing it, which another thread may have closed already
                log.warning("consumer_stopped_badly", error=f"{type(error).__name__}: {error}")
        if self._thread is not None:
            self._thread.join(seconds)

    def restart(self) -> None:
        """Replace a consumer that has gone deaf; while Redis is away it is left to connect again by itself."""
        if not answers(self._redis_url):
            log.info("redis_away")
            return
        old, self._controller = self._controller, None
        # it may hang in a dead connection, so nobody waits for it
        threading.Thread(target=old.terminate, name="old-consumer", daemon=True).start()
        self.start()

    def _consume(self, controller: Any) -> None:
        try:
            controller.start()
        except SystemExit:
            pass
        except Exception:
            # the look into SQL notices that no messages come, and starts another
            log.exception("consumer_ended")

    def _register(self, app: Celery) -> None:
        @app.task(name=TASK, shared=False, ignore_result=True, acks_late=True)  # type: ignore[untyped-decorator,unused-ignore]
        def render(**body: Any) -> None:
            self.receive(body)

    def receive(self, body: Mapping[str, Any]) -> None:
        """One message: rendered if it is this worker's to claim, dropped if it is stale."""
        self.messages += 1
        message = parse_render(body)
        if message is None:
            # of another version of Farm, perhaps: SQL still knows the job
            log.warning("message_not_understood", version=str(body.get("v"))[:20])
            return
        self._run(message.job, message.attempt)
