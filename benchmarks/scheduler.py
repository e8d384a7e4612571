"""Rounds and assignments per second, by workers and jobs queued: of the plan alone, in memory, and of the whole round on a
real store: SQLite and PostgreSQL read, planned, written, and the messages sent to Redis.

A steady round: a tenth of the workers have just become free, a fifth has sent a heartbeat since the last one, and each user's
queue is longer than what a round sees of it. Peers in the same run: LPUSH and BRPOP of one small message on the same Redis, one
after another, which is what any queue pays per job; and one reading of the whole queue. `--quick` stops at 100,000 jobs and
1,000 workers.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from redis import Redis
from sqlalchemy import Engine, text

from benchmarks._queued import Crowd
from farm.clock import SystemClock
from farm.db.engine import make_engine, make_sessions, migrate
from farm.embedded.servers import ValkeyServer
from farm.queue.celery import make_app
from farm.queue.messages import RenderMessage, send_render
from farm.queue.redis import connect
from farm.scheduler import loop
from farm.scheduler.facts import Snapshot
from farm.scheduler.group import Group, GroupKey, Head, front
from farm.scheduler.plan import plan
from farm.scheduler.simulate.made import make_trace
from farm.scheduler.simulate.trace import Trace
from farm.scheduler.simulate.world import SimFleet
from tests.support.databases import PostgresServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = 1.0
ROUNDS = 7
JOBS = (1_000, 10_000, 100_000, 1_000_000)
WORKERS = (10, 100, 1000, 10_000)
#: seconds; nothing may run out while a round is measured
NEVER = 1e6


def fleet(count: int, trace: Trace) -> SimFleet:
    """Workers that hold what some jobs of the trace left behind; one of ten has room for one job."""
    made = SimFleet(trace, count)
    for number, worker in enumerate(made.workers):
        for place in range(3 if number % 10 else 2):
            worker.give(place, trace.asks[(number * 3 + place) % len(trace)], 0.0)
        worker.open.pop(0)
    return made


def snapshot(workers: SimFleet, trace: Trace) -> Snapshot:
    """What the scheduler reads in one round: the front of each user's queue, grouped."""
    views = tuple(worker.view(str(number), 5.0) for number, worker in workers.up(5.0))
    room = sum(view.free_slots for view in views)
    most = front(room, len(trace.owners))
    taken: dict[int, int] = defaultdict(int)
    groups: dict[GroupKey, list[tuple[Head, int]]] = {}
    for number, owner in enumerate(trace.owner.tolist()):
        if taken[owner] < most:
            taken[owner] += 1
            ask = trace.asks[number]
            head = Head(id=str(number), attempt=0, created_at=NOW + timedelta(seconds=number / len(trace)))
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


def round_trips(client: Redis) -> float:
    """LPUSH + BRPOP round trips per second, in the quickest hundred."""
    message = json.dumps({"job": "job_01J00000000000000000000000", "attempt": 1})
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(100):
            client.lpush("peer", message)
            client.brpop(["peer"], timeout=1)
        best = min(best, (time.perf_counter() - began) / 100)
    return 1 / best


class Rounds:
    """A scheduler that leads on a database, with the seconds of the parts of its rounds."""

    def __init__(self, engine: Engine, redis_url: str):
        self._parts: dict[str, float] = defaultdict(float)
        app = make_app(redis_url)

        def send(worker_id: str, job_id: str, attempt: int) -> None:
            with self._timed("send"):
                send_render(app, worker_id, RenderMessage(job=job_id, attempt=attempt))

        self._scheduler = loop.Scheduler(
            make_sessions(engine),
            loop.Effects(
                send=send,
                wait=lambda seconds: None,
                tell=lambda *told: None,
                deliver=lambda *message: None,
                aside=lambda work: None,
                sweep=lambda now: None,
            ),
            SystemClock(),
            loop.Timers(
                round_seconds=1.0, lease_seconds=NEVER, leader_lease_seconds=NEVER, claim_seconds=NEVER
            ),
            holder="benchmark",
            window=2,
            crash_limit=3,
        )

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._parts[part] += time.perf_counter() - began

    def once(self) -> tuple[int, dict[str, float]]:
        """One round: jobs assigned, and seconds in all and by part."""
        self._parts.clear()
        inside: Any = loop
        read, decide = inside.take_snapshot, inside.plan

        def timed_read(*args: Any, **more: Any) -> Any:
            with self._timed("read"):
                return read(*args, **more)

        def timed_plan(*args: Any) -> Any:
            with self._timed("plan"):
                return decide(*args)

        inside.take_snapshot, inside.plan = timed_read, timed_plan
        try:
            with self._timed("all"):
                assigned = self._scheduler.round()
        finally:
            inside.take_snapshot, inside.plan = read, decide
        return assigned, dict(self._parts)


def of_store(crowd: Crowd, rounds: Rounds, client: Redis, workers: int) -> dict[str, float]:
    """Figures of `ROUNDS` steady rounds, after one that fills what is kept between them."""
    found: list[tuple[int, dict[str, float]]] = []
    for _ in range(ROUNDS + 1):
        found.append(rounds.once())
        crowd.go_on(beats=max(1, workers // 5))
        client.flushall()
    found = found[1:]
    seconds = sorted(parts["all"] for _, parts in found)
    assigned = statistics.median(count for count, _ in found)
    half, most = statistics.median(seconds), seconds[-1]
    parts = {
        name: statistics.median(row.get(name, 0.0) for _, row in found) for name in ("read", "plan", "send")
    }
    return {
        "assigned_per_round": assigned,
        "round_p50_s": half,
        "round_p99_s": most,
        "decision_p50_us": 1e6 * half / max(1, assigned),
        "decision_p99_us": 1e6 * most / max(1, assigned),
        "assigned_per_s": assigned / seconds[0],
        **{f"{name}_s": value for name, value in parts.items()},
        "rest_s": half - sum(parts.values()),
    }


def full_scan(engine: Engine) -> float:
    """Seconds to read the whole queue once, in order: what a scheduler that looks at all of it would pay each round."""
    began = time.perf_counter()
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=10_000).execute(
            text(
                "select id, owner_id, model_key, networks, batch_key, steps from jobs "
                "where state = 'queued' order by priority, id"
            )
        )
        for _ in rows:
            pass
    return time.perf_counter() - began


def in_memory(peer: float, jobs: tuple[int, ...], workers: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    row: dict[str, Any]
    for queued in jobs:
        trace = make_trace("mixed", workers=1000, jobs=queued, seed=1)
        for count in workers:
            row = {
                "store": "none", "workers": count, "queued": queued, **measure(snapshot(fleet(count, trace), trace)),
            }  # fmt: skip
            row["to_redis"] = row["assigned_per_s"] / peer
            print(
                f"plan alone, {count:>6} workers {queued:>8} queued: {row['rounds_per_s']:8.2f} rounds/s, "
                f"{row['assigned_per_s']:7.0f} assigned/s ({row['to_redis']:.2f} of Redis), {row['groups']} groups",
                flush=True,
            )
            yield row


def on_store(
    name: str, url: str, server: ValkeyServer, peer: float, jobs: tuple[int, ...], workers: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    row: dict[str, Any]
    engine = make_engine(url)
    try:
        with connect(server.url) as client:
            crowd, rounds = Crowd(engine, make_sessions(engine)), Rounds(engine, server.url)
            for queued in jobs:
                crowd.queue(queued)
                scan = full_scan(engine)
                print(f"{name}, {queued} queued: the whole queue is read in {scan:.3f} s", flush=True)
                for count in workers:
                    crowd.staff(count)
                    row = {"store": name, "workers": count, "queued": queued, "scan_s": scan,
                           **of_store(crowd, rounds, client, count)}  # fmt: skip
                    row["to_redis"] = row["assigned_per_s"] / peer
                    print(
                        f"{name:>10} {count:>6} workers {queued:>8} queued: round {row['round_p50_s']:.3f} s (p99 "
                        f"{row['round_p99_s']:.3f}; read {row['read_s']:.3f}, plan {row['plan_s']:.3f}, send "
                        f"{row['send_s']:.3f}, rest {row['rest_s']:.3f}), {row['assigned_per_round']:.0f} jobs, "
                        f"{row['decision_p50_us']:.0f} us each, {row['to_redis']:.2f} of Redis",
                        flush=True,
                    )
                    yield row
    finally:
        engine.dispose()


def main() -> None:
    """Print the tables and, last, one line of JSON."""
    quick = "--quick" in sys.argv[1:]
    jobs, workers = (JOBS[:3], WORKERS[:3]) if quick else (JOBS, WORKERS)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        server, postgres = ValkeyServer(Path(folder) / "redis"), PostgresServer()
        server.start()
        postgres.start()
        try:
            with connect(server.url) as client:
                peer = round_trips(client)
            print(f"Redis LPUSH + BRPOP: {peer:.0f} a second")
            rows += in_memory(peer, jobs, workers)
            for name, url in (
                ("sqlite", f"sqlite:///{folder}/farm.db"),
                ("postgresql", _empty_database(postgres)),
            ):
                migrate(url)
                rows += on_store(name, url, server, peer, jobs, workers)
        finally:
            postgres.stop()
            server.stop()
    print(json.dumps({"redis_round_trips_per_s": peer, "rows": rows}))


def _empty_database(postgres: PostgresServer) -> str:
    postgres.execute("create database crowd")
    return postgres.url("crowd")


if __name__ == "__main__":
    main()
