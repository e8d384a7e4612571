"""Many jobs, and something is killed all the time: nothing is lost, nothing doubled. The seed is printed.

`FARM_CHAOS_SECONDS` and `FARM_CHAOS_JOBS` make it longer, `FARM_CHAOS_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from redis import Redis

from tests.chaos.fleet import Fleet
from tests.chaos.random_kills import RandomKills

SECONDS = float(os.environ.get("FARM_CHAOS_SECONDS", "25"))
JOBS = int(os.environ.get("FARM_CHAOS_JOBS", "150"))

pytestmark = pytest.mark.timeout(int(SECONDS * 4 + 1200))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def test_random_kills_lose_and_double_nothing(fleet: Fleet, redis: Redis) -> None:
    seed = int(os.environ.get("FARM_CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"FARM_CHAOS_SEED={seed}")
    kills = RandomKills(fleet, redis, random.Random(seed))
    fleet.submit(JOBS, steps=2)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        kills.strike()
    fleet.finished()
