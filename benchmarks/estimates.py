"""How true estimates of a start come: a whole farm with two workers, three users, every priority, jobs of many lengths that come
in bursts. Every two seconds each user asks the API when each waiting job starts; afterwards that is held against its first step.

Peer: jobs before it (of its class or a more urgent one, asked for earlier) times the mean device seconds of a job, shared by
the workers. The mean is that of the whole run, which nobody knows before its end.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from farm.client.http import Client
from farm.clock import SystemClock
from farm.db.engine import make_engine, make_sessions
from farm.jobs import users
from tests.support.farm import RunningFarm, running_farm

WORKERS = 2
BURSTS = 5
#: jobs of one burst, by user: (number, priorities)
USERS = {"admin": (7, ("normal", "bulk")), "anna": (6, ("normal", "interactive")), "bob": (12, ("bulk",))}
ADAPTERS = ("", " <lora:ink:0.8>", " <lora:gold:0.5>", " <lora:ink:0.4> <lora:neon:0.6>")
ASK_SECONDS = 2.0
#: open jobs that the next burst meets
LEFT = 10
URGENCY = ("interactive", "normal", "bulk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was told of one job at one moment."""

    job: str
    at: datetime
    start: datetime
    low: datetime
    high: datetime
    #: jobs that a first-come queue would take before it
    before: int
    first: bool


def main() -> None:
    bursts = int(sys.argv[1]) if len(sys.argv) > 1 else BURSTS
    with (
        tempfile.TemporaryDirectory() as folder,
        running_farm(Path(folder) / "farm", workers=WORKERS) as farm,
    ):
        clients = people(farm)
        warm(clients)
        asked = ask_and_submit(clients, bursts)
        print(json.dumps(report(asked, began(clients))))


def people(farm: RunningFarm) -> dict[str, Client]:
    engine = make_engine(farm.info["database_url"])
    clients = {"admin": farm.client()}
    now = SystemClock().now()
    with make_sessions(engine).begin() as session:
        for name in set(USERS) - set(clients):
            user = users.create_user(session, name, "artist", now)
            clients[name] = Client(farm.url, users.create_key(session, user, "benchmark", now))
    engine.dispose()
    return clients


def warm(clients: dict[str, Client]) -> None:
    """Until workers have measured how fast they are, estimates are guesses."""
    for seed in range(6):
        clients["admin"].submit({"prompt": "a red circle", "steps": 10, "seed": seed})
    while clients["admin"].get("/queue")["waiting"] or clients["admin"].get("/queue")["running"]:
        time.sleep(0.2)


def ask_and_submit(clients: dict[str, Client], bursts: int) -> list[Asked]:
    random.seed(1)
    asked: list[Asked] = []
    seen: set[str] = set()
    for burst in range(bursts):
        for name, (number, priorities) in USERS.items():
            rows = [
                {"prompt": f"a fox{random.choice(ADAPTERS)}", "seed": burst * 100 + n,
                 "steps": random.choice((4, 10, 20, 40, 60)), "priority": random.choice(priorities)}
                for n in range(number)
            ]  # fmt: skip
            clients[name].post("/batches", {"name": f"burst {burst}", "rows": rows})
        # the next burst meets what is left of this one, however quick the machine is
        few = LEFT if burst < bursts - 1 else 0
        while ask(clients, asked, seen) > few:
            time.sleep(ASK_SECONDS)
    return asked


def ask(clients: dict[str, Client], asked: list[Asked], seen: set[str]) -> int:
    """What everybody is told now; returns the number of open jobs."""
    found: list[dict[str, Any]] = []
    left = 0
    for client in clients.values():
        answer = client.get("/queue", {"mine": "true", "limit": 1000})
        found += [item for item in answer["items"] if item["state"] == "queued"]
        left = answer["waiting"] + answer["running"]
    now = SystemClock().now()
    line = sorted(found, key=lambda item: (URGENCY.index(item["priority"]), item["id"]))
    for before, item in enumerate(line):
        if item["estimated_start"] is None:
            continue
        start, low, high = (
            datetime.fromisoformat(item[name])
            for name in ("estimated_start", "estimated_low", "estimated_high")
        )
        asked.append(
            Asked(
                job=item["id"],
                at=now,
                start=start,
                low=low,
                high=high,
                before=before,
                first=item["id"] not in seen,
            )
        )
        seen.add(item["id"])
    return left


def began(clients: dict[str, Client]) -> dict[str, tuple[datetime, float]]:
    """When each job's first step began, and its device seconds."""
    found = {}
    for client in clients.values():
        cursor: str | None = ""
        while cursor is not None:
            page = client.get("/jobs", {"state": "succeeded", "limit": 200, "cursor": cursor})
            for job in page["items"]:
                timings = job["timings"]
                worked = timings["sampling"] + timings["uploading"]
                ended = datetime.fromisoformat(job["finished_at"])
                seconds = timings["patching"] + timings["sampling"]
                found[job["id"]] = (ended - timedelta(seconds=worked), seconds)
            cursor = page["next_cursor"]
    return found


def report(asked: Sequence[Asked], truth: dict[str, tuple[datetime, float]]) -> dict[str, Any]:
    mean = statistics.mean(seconds for _, seconds in truth.values())
    results: dict[str, Any] = {"jobs": len(truth), "mean_job_s": mean}
    for name, some in (("first", [item for item in asked if item.first]), ("all", list(asked))):
        rows = [(item, truth[item.job][0]) for item in some if item.job in truth]
        waits = [(came - item.at).total_seconds() for item, came in rows]
        ours = [abs((came - item.start).total_seconds()) for item, came in rows]
        peer = [abs(wait - item.before * mean / WORKERS) for (item, _), wait in zip(rows, waits, strict=True)]
        within = sum(item.low <= came <= item.high for item, came in rows) / len(rows)
        early = sum(came < item.low for item, came in rows) / len(rows)
        bias = statistics.median((came - item.start).total_seconds() for item, came in rows)
        width = statistics.median((item.high - item.low).total_seconds() for item, _ in rows)
        results[name] = {
            "estimates": len(rows), "median_wait_s": statistics.median(waits),
            "median_error_s": statistics.median(ours), "p90_error_s": statistics.quantiles(ours, n=10)[-1],
            "peer_median_error_s": statistics.median(peer), "peer_p90_error_s": statistics.quantiles(peer, n=10)[-1],
            "ratio": statistics.median(ours) / statistics.median(peer),
            "within_bars": within, "before_bars": early, "bias_s": bias, "median_width_s": width,
        }  # fmt: skip
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in results[name].items()))
    return results


if __name__ == "__main__":
    main()
