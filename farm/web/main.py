"""Entry point of the web service: gunicorn with threads, stopped in an orderly way by SIGTERM."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.base import Worker

from farm.settings import Settings
from farm.web.app import create_app

STOP_SECONDS = 10
BODY_SECONDS = 60


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
            "timeout": BODY_SECONDS,
            "graceful_timeout": STOP_SECONDS,
            "keepalive": 5,
            "accesslog": None,
            "loglevel": self._settings.log_level.lower(),
            "proc_name": "farm-web",
            "preload_app": False,
            "control_socket_disable": True,
            "post_worker_init": _end_streams_on_stop,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
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


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way, for at most ten seconds."""
    _Server(settings).run()
