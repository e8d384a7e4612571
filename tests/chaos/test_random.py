"""Many jobs, and something is killed all the time: nothing is lost, nothing doubled. The seed is printed.

`FARM_CHAOS_SECONDS` and `FARM_CHAOS_JOBS` make it longer, `FARM_CHAOS_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess

import pytest
from redis import Redis

from tests.chaos.fleet import Fleet, kill

SECONDS = float(os.environ.get("FARM_CHAOS_SECONDS", "25"))
JOBS = int(os.environ.get("FARM_CHAOS_JOBS", "150"))
#: random kills look like poison
CRASHES = {"crash_limit": 50}

pytestmark = pytest.mark.timeout(int(SECONDS * 4 + 1200))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def test_random_kills_lose_and_double_nothing(fleet: Fleet, redis: Redis) -> None:
    seed = int(os.environ.get("FARM_CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FARM_CHAOS_SEED={seed}")
    dice = random.Random(seed)
    starts = {
        "one": lambda: fleet.worker("one", **CRASHES),
        "two": lambda: fleet.worker("two", **CRASHES),
        "scheduler-1": lambda: fleet.scheduler(**CRASHES),
        "scheduler-2": lambda: fleet.scheduler(**CRASHES),
    }
    processes: dict[str, BaseProcess] = {name: start() for name, start in starts.items()}
    fleet.submit(JOBS, steps=2)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(dice.uniform(0.3, 1.5))
        name = dice.choice(list(processes))
        fault = dice.choice(("kill", "kill", "stop", "term", "flush"))
        process = processes[name]
        if fault == "flush":
            redis.flushall()
        elif fault == "stop":
            kill(process, signal.SIGSTOP)
            time.sleep(dice.uniform(0.1, 3.0))
            kill(process, signal.SIGCONT)
        else:
            kill(process, signal.SIGKILL if fault == "kill" else signal.SIGTERM)
            process.join(15)
            process.kill()
            process.join()
            processes[name] = starts[name]()
    fleet.finished()
