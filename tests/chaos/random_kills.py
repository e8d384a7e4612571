"""Something is killed, stopped, drained or emptied all the time: two workers, two schedulers and Redis, by dice."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from redis import Redis

from tests.chaos.fleet import Fleet, kill

#: random kills look like poison
CRASHES: dict[str, Any] = {"crash_limit": 50}


class RandomKills:
    """Two workers and two schedulers; `strike` does one fault to one of them, and starts again what it ended."""

    def __init__(self, fleet: Fleet, redis: Redis, dice: random.Random, **settings: Any):
        self._redis = redis
        self._dice = dice
        both = CRASHES | settings
        self._starts: dict[str, Callable[[], BaseProcess]] = {
            "one": lambda: fleet.worker("one", **both),
            "two": lambda: fleet.worker("two", **both),
            "scheduler-1": lambda: fleet.scheduler(**both),
            "scheduler-2": lambda: fleet.scheduler(**both),
        }
        self._processes = {name: start() for name, start in self._starts.items()}
        #: faults done, by kind
        self.done: Counter[str] = Counter()

    def strike(self) -> None:
        """One fault, after a pause of about a second."""
        time.sleep(self._dice.uniform(0.3, 1.5))
        name = self._dice.choice(list(self._processes))
        fault = self._dice.choice(("kill", "kill", "stop", "term", "flush"))
        process = self._processes[name]
        self.done[fault] += 1
        if fault == "flush":
            self._redis.flushall()
        elif fault == "stop":
            kill(process, signal.SIGSTOP)
            time.sleep(self._dice.uniform(0.1, 3.0))
            kill(process, signal.SIGCONT)
        else:
            kill(process, signal.SIGKILL if fault == "kill" else signal.SIGTERM)
            process.join(15)
            process.kill()
            process.join()
            self._processes[name] = self._starts[name]()
