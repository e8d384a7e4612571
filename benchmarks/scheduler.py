"""Rounds and assignments per second of the production plan, by workers and jobs queued, all in memory.

A steady round: a tenth of the workers have just become free, and each user's queue is longer than what a round sees of it.
Peer: LPUSH and BRPOP of one small message on a Redis of its own, one after another: what any queue pays per job.
"""

from __future__ import annotations

import json
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from redis import Redis

from farm.embedded.servers import ValkeyServer
from farm.queue.redis import connect
from farm.scheduler.group import Group, GroupKey, Head, front
from farm.scheduler.plan import Snapshot, plan
from farm.scheduler.simulate.trace import Ask, make_trace
from farm.scheduler.simulate.world import SimWorker

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = 1.0


def fleet(count: int, asks: tuple[Ask, ...]) -> list[SimWorker]:
    """Workers that hold what some jobs of the trace left behind; one of ten has room for one job."""
    workers = [SimWorker(number) for number in range(count)]
    for number, worker in enumerate(workers):
        for place in range(3 if number % 10 else 2):
            worker.give(place, asks[(number * 3 + place) % len(asks)], 0.0)
        worker.open.pop(0)
    return workers


def snapshot(workers: list[SimWorker], asks: tuple[Ask, ...]) -> Snapshot:
    """What the scheduler reads in one round: the front of each user's queue, grouped."""
    views = tuple(worker.view(str(number), 5.0) for number, worker in enumerate(workers))
    room = sum(view.free_slots for view in views)
    most = front(room, len({ask.key.owner_id for ask in asks}))
    taken: dict[str, int] = {}
    groups: dict[GroupKey, list[tuple[Head, int]]] = {}
    for number, ask in enumerate(asks):
        owner = ask.key.owner_id
        if taken.get(owner, 0) < most:
            taken[owner] = taken.get(owner, 0) + 1
            head = Head(id=str(number), attempt=0, created_at=NOW + timedelta(seconds=number / len(asks)))
            groups.setdefault(ask.key, []).append((head, ask.steps))
    return Snapshot(
        groups=tuple(
            Group(
                key=key, heads=tuple(head for head, _ in heads), steps=sum(s for _, s in heads) / len(heads)
            )
            for key, heads in groups.items()
        ),
        workers=views,
        foresee=0,
    )


def measure(work: Snapshot) -> dict[str, float]:
    """By the quickest of the rounds that fit into `SECONDS`: other load on the machine only makes one slower."""
    best, assigned, until = float("inf"), 0, time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < until:
        began = time.perf_counter()
        assigned = len(plan(work, NOW + timedelta(seconds=5)).assignments)
        best = min(best, time.perf_counter() - began)
    return {
        "groups": len(work.groups),
        "rounds_per_s": 1 / best,
        "assigned_per_round": assigned,
        "assigned_per_s": assigned / best,
    }


def redis_rate() -> float:
    """LPUSH + BRPOP round trips per second, in the quickest hundred."""
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder) / "redis")
        server.start()
        try:
            with connect(server.url) as client:
                return _round_trips(client)
        finally:
            server.stop()


def _round_trips(client: Redis) -> float:
    message = json.dumps({"job": "job_01J00000000000000000000000", "attempt": 1})
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(100):
            client.lpush("peer", message)
            client.brpop(["peer"], timeout=1)
        best = min(best, (time.perf_counter() - began) / 100)
    return 1 / best


def main() -> None:
    """Print the table and, last, one line of JSON."""
    peer = redis_rate()
    print(f"Redis LPUSH + BRPOP: {peer:.0f} a second")
    rows = []
    for jobs in (1_000, 100_000, 1_000_000):
        asks = make_trace("mixed", workers=1000, jobs=jobs, seed=1).asks
        for count in (10, 100, 1000, 10_000):
            row = {"workers": count, "queued": jobs, **measure(snapshot(fleet(count, asks), asks))}
            row["to_redis"] = row["assigned_per_s"] / peer
            rows.append(row)
            print(
                f"{count:>6} workers {jobs:>8} queued: {row['rounds_per_s']:8.2f} rounds/s, "
                f"{row['assigned_per_s']:7.0f} assigned/s ({row['to_redis']:.2f} of Redis), {row['groups']} groups",
                flush=True,
            )
    print(json.dumps({"redis_round_trips_per_s": peer, "rows": rows}))


if __name__ == "__main__":
    main()
