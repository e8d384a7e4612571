"""Entry point of the web service: gunicorn with threads, stopped in an orderly way by SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.workers.base import Worker

from farm.settings import Settings

if TYPE_CHECKING:
    from flask import Flask

STOP_SECONDS = 10
#: a worker process that has not moved for so long is replaced
SILENCE_SECONDS = 60


class _Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn configured by our settings alone: no command line, no configuration file."""

    def __init__(self, settings: Settings):
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"{_bracketed(self._settings.host)}:{self._settings.port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": self._settings.web_threads,
            "timeout": SILENCE_SECONDS,
            "graceful_timeout": STOP_SECONDS,
            "keepalive": 5,
            "accesslog": None,
            "loglevel": self._settings.log_level.lower(),
            "proc_name": "farm-web",
            "preload_app": False,
            "control_socket_disable": True,
            "post_worker_init": _end_streams_on_stop,
            "worker_exit": _leave_at_once,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        # here and not above: the arbiter process stays small, and quick to end
        from farm.web.app import create_app

        return create_app(self._settings)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _end_streams_on_stop(worker: Worker) -> None:
    """Tell open event streams to end as soon as the worker is asked to stop; they would hold it up otherwise."""
    stopping = worker.wsgi.extensions["farm"].stopping
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        before = signal.getsignal(number)

        def stop(received: int, frame: FrameType | None, before: Any = before) -> None:
            stopping.set()
            if callable(before):
                before(received, frame)

        signal.signal(number, stop)


def _leave_at_once(arbiter: Any, worker: Worker) -> None:
    """End the process once its requests are done: Python would spend seconds on taking every module apart first."""
    stopped_in_order = worker.booted and not worker.alive
    if (
        os.getpid() != worker.pid or not stopped_in_order
    ):  # the arbiter calls this too, and so do failed starts
        return
    worker.wsgi.extensions["farm"].engine.dispose()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way, for at most ten seconds."""
    _Server(settings).run()
