"""A whole farm as its user starts it: `farm up` as a process, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.client.http import Client

#: Quicker than in production, but what is to expire when a process is dead: those here are alive, or started again under
#: their names, on a busy machine after a minute.
QUICK = {"FARM_HEARTBEAT_SECONDS": "0.5", "FARM_LEASE_SECONDS": "120", "FARM_LEADER_LEASE_SECONDS": "2",
         "FARM_CLAIM_SECONDS": "120", "FARM_ROUND_SECONDS": "0.3", "FARM_POLL_SECONDS": "1", "FARM_DRAIN_SECONDS": "5"}  # fmt: skip
START_SECONDS = 260.0


@dataclass
class RunningFarm:
    """Addresses, key and processes of a farm under test."""

    process: subprocess.Popen[bytes]
    info_file: Path
    folder: Path

    @property
    def info(self) -> dict[str, Any]:
        return dict(json.loads(self.info_file.read_text()))

    @property
    def url(self) -> str:
        return str(self.info["url"])

    @property
    def api_key(self) -> str:
        return str(self.info["api_key"])

    def client(self) -> Client:
        return Client(self.url, self.api_key)

    def pid(self, name: str) -> int:
        return next(int(row["pid"]) for row in self.info["processes"] if row["name"] == name)

    def environment(self) -> dict[str, str]:
        """For commands that talk to this farm."""
        return {
            **os.environ,
            "FARM_DATA_DIR": str(self.folder),
            "FARM_URL": self.url,
            "FARM_API_KEY": self.api_key,
        }

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `farm …` against this farm."""
        return subprocess.run(
            [sys.executable, "-m", "farm.cli", *words],
            env=self.environment(), capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in (self.folder / "logs").glob("*.log")
        )


@contextmanager
def running_farm(
    folder: Path, *options: str, workers: int = 1, environment: Mapping[str, str] | None = None
) -> Iterator[RunningFarm]:
    """`farm up` in `folder` until the block ends; it is stopped as a person would, by Ctrl-C."""
    info = folder / "info.json"
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "up.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "farm.cli", "up", "--port", "0", "--workers", str(workers), "--data", str(folder),
             "--info", str(info), *options],
            env={**os.environ, "FARM_TORCH_THREADS": "1", **QUICK, **(environment or {})},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not info.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"farm up did not come up:\n{output.read_text()}")
            time.sleep(0.1)
        yield RunningFarm(process, info, folder)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
