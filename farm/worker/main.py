"""Entry point of a worker process: settings in, signals heard, one worker run until it is told to stop."""

from __future__ import annotations

import os
import signal
from types import FrameType

from farm.clock import SystemClock
from farm.logs import configure_logging
from farm.settings import Settings
from farm.worker.worker import Worker, Wrap

_LOOK_SECONDS = 0.1
EXIT_BROKEN = 1
EXIT_QUIT = 130


def run(settings: Settings, wrap: Wrap = lambda effects: effects) -> None:
    """Render until SIGTERM or SIGINT: the first one drains, a second one quits at once.

    Raises:
        BadRequest, Conflict: a setting is wrong; nothing was started.
        SystemExit: the device broke; another process has to take over.
    """
    configure_logging(settings.log_level)
    clock = SystemClock()
    worker = Worker(settings, clock, wrap)

    def told(number: int, frame: FrameType | None) -> None:
        if worker.hands.stopping.is_set():
            # leases run out, and the leader queues again what was held
            os._exit(EXIT_QUIT)
        worker.hands.leave_within(settings.drain_seconds)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    worker.start()
    while not (worker.hands.stopping.is_set() or worker.hands.broken.is_set()):
        clock.sleep(_LOOK_SECONDS)
    finished = worker.stop()
    if not finished:
        # a step or a transfer that does not end must not keep the process: everything it held is queued again
        os._exit(EXIT_BROKEN if worker.hands.broken.is_set() else 0)
    if worker.hands.broken.is_set():
        raise SystemExit(EXIT_BROKEN)
