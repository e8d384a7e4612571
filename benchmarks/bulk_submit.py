"""Bulk at its full size: rows per second of a batch through the API, memory of the web process, cancel of the rest, on SQLite.
`queue_pages` does the same on PostgreSQL beside a million jobs.

Peer: the same number of bare rows put into the same database by one `executemany`, with no parsing and no checks.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from farm.client.http import Client
from farm.db.engine import make_engine
from tests.support.farm import RunningFarm, running_farm

ROWS = (1_000, 10_000, 100_000)


def main() -> None:
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, running_farm(Path(name) / "farm", workers=0) as farm:
        for rows in ROWS:
            results[str(rows)] = found = of_batch(farm, Path(name), rows)
            print(f"{rows} rows: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    print(json.dumps(results))


def of_batch(farm: RunningFarm, folder: Path, rows: int) -> dict[str, float]:
    """A batch of `rows` rows is sent, then cancelled."""
    lines = [
        json.dumps(
            {
                "prompt": f"a red circle <lora:ink:{row % 50 / 100}>",
                "steps": 8,
                "seed": row,
                "priority": "bulk",
            }
        )
        for row in range(rows)
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines))
    client, web = farm.client(), web_process(farm)
    before = memory(web)
    batch: dict[str, Any] = {}
    ours = timed(lambda: batch.update(send(client, path)))
    assert batch["total"] == rows
    grown = memory(web) - before
    cancelled: dict[str, Any] = {}
    cancel = timed(lambda: cancelled.update(client.post(f"/batches/{batch['id']}:cancel")))
    assert cancelled["cancelled"] == rows
    bare = bare_inserts(farm, lines)
    return {
        "seconds": ours, "rows_per_s": rows / ours, "bare_rows_per_s": rows / bare, "ratio": bare / ours,
        "web_grew_mb": grown, "cancel_all_s": cancel, "cancel_to_bare_inserts": cancel / bare,
    }  # fmt: skip


def send(client: Client, path: Path) -> dict[str, Any]:
    answer = client.request(
        "POST", "/batches", params={"name": "bulk"}, content=path.read_bytes,
        headers={"Content-Type": "application/x-ndjson"}, timeout_seconds=600,
    )  # fmt: skip
    found: dict[str, Any] = answer.json()
    return found


def bare_inserts(farm: RunningFarm, lines: list[str]) -> float:
    """Seconds for as many rows with two columns, in one transaction."""
    engine = make_engine(farm.info["database_url"])
    with engine.begin() as connection:
        connection.execute(text("drop table if exists bare"))
        connection.execute(text("create table bare (id integer primary key, state text, spec text)"))
    statement = text("insert into bare (id, state, spec) values (:id, 'queued', :spec)")
    rows = [{"id": number, "spec": line} for number, line in enumerate(lines)]

    def insert() -> None:
        with engine.begin() as connection:
            connection.execute(statement, rows)

    try:
        return timed(insert)
    finally:
        engine.dispose()


def web_process(farm: RunningFarm) -> list[psutil.Process]:
    """The web service: gunicorn and its one process with threads."""
    parent = psutil.Process(farm.pid("web"))
    return [parent, *parent.children(recursive=True)]


def memory(processes: list[psutil.Process]) -> float:
    """Their resident memory in MB."""
    return sum(process.memory_info().rss for process in processes) / 2**20


def timed(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
