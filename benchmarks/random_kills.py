"""Nothing lost, nothing doubled: the same jobs in peace and under random kills, counted, and the ratio of the two rates.

Two workers and two schedulers on PostgreSQL with the chaos tests' timers; every second or so one of them is killed, stopped,
drained, or Redis is emptied. The peer is the same fleet in peace. `--jobs` (1,000), `--seed` repeats a run.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from typing import Any

from benchmarks._recovery_stage import Services, fleet_of, running_services
from farm.queue.redis import connect
from tests.chaos.fleet import QUICK
from tests.chaos.random_kills import RandomKills
from tests.support.history import check_history


def measure(jobs: int, services: Services, seed: int) -> dict[str, Any]:
    """As many jobs in peace and under random kills: seconds of both, and what the history of the second one holds."""
    seconds: dict[str, float] = {}
    kills = Counter[str]()
    for way in ("calm", "killed"):
        with fleet_of(services, QUICK) as fleet, connect(services.redis.url) as redis:
            processes = RandomKills(fleet, redis, random.Random(seed))
            fleet.submit(4, steps=1)
            fleet.finished_jobs("succeeded", seconds=300)
            fleet.submit(jobs, steps=2)
            began = time.monotonic()
            while fleet.unended():
                if way == "killed":
                    processes.strike()
                else:
                    time.sleep(0.1)
            seconds[way] = time.monotonic() - began
            # nothing lost, nothing doubled: raises, naming the job
            check_history(fleet.rig.sessions, fleet.rig.store, fleet.jobs)
            kills = processes.done
            rows = [fleet.rig.job(job) for job in fleet.jobs]
    return {
        "jobs": jobs, "seed": seed, "calm_per_s": jobs / seconds["calm"], "killed_per_s": jobs / seconds["killed"],
        "ratio": seconds["calm"] / seconds["killed"], "faults": dict(kills),
        "succeeded": sum(row.state == "succeeded" for row in rows) - 4,
        "rendered_again": sum(row.attempt > 1 for row in rows), "crashes": sum(row.crash_count for row in rows),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    with running_services() as services:
        print(json.dumps(measure(asked.jobs, services, asked.seed)))


if __name__ == "__main__":
    main()
