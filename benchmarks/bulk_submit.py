"""Rows per second of bulk submission through the API, parsed, checked and committed.

Peer: the same number of bare rows put into the same kind of database by one `executemany`, with no parsing and no checks.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from pathlib import Path

from tests.support.farm import running_farm

ROWS = (1_000, 10_000)


def peer_rate(folder: Path, lines: list[str]) -> float:
    database = sqlite3.connect(folder / "peer.db")
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=full")
    database.execute("create table jobs (id integer primary key, state text, spec text)")
    began = time.perf_counter()
    with database:
        database.executemany(
            "insert into jobs (state, spec) values ('queued', ?)", ((line,) for line in lines)
        )
    return len(lines) / (time.perf_counter() - began)


def main() -> None:
    results = {}
    with tempfile.TemporaryDirectory() as name, running_farm(Path(name) / "farm", workers=0) as farm:
        for rows in ROWS:
            lines = [
                json.dumps(
                    {
                        "prompt": f"a red circle <lora:ink:{strength / 100}>",
                        "steps": 8,
                        "seed": seed,
                        "priority": "bulk",
                    }
                )
                for seed, strength in zip(range(rows), (number % 50 for number in range(rows)), strict=True)
            ]
            path = Path(name) / f"{rows}.jsonl"
            path.write_text("\n".join(lines))
            began = time.perf_counter()
            answer = farm.client().request(
                "POST", "/batches", params={"name": "bulk"}, content=path.read_bytes,
                headers={"Content-Type": "application/x-ndjson"}, timeout_seconds=300,
            )  # fmt: skip
            ours = rows / (time.perf_counter() - began)
            assert answer.json()["total"] == rows
            peer = peer_rate(Path(name), lines) if rows == ROWS[0] else results[ROWS[0]]["bare_rows_per_s"]
            results[rows] = {"farm_rows_per_s": ours, "bare_rows_per_s": peer, "ratio": ours / peer}
            print(
                f"{rows} rows: farm {ours:.0f} rows/s, bare inserts {peer:.0f} rows/s, ratio {ours / peer:.4f}"
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
