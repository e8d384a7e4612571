"""Jobs and batches from a program's side: submit, wait, download."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farm.client.files import chunks, download
from farm.client.http import Client
from farm.errors import BadRequest, Transient

ENDED = frozenset({"succeeded", "failed", "cancelled"})
BATCH_TYPES = {
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
    ".csv": "text/csv",
    ".json": "application/json",
}
_ENDINGS = {"image/png": ".png", "video/webm": ".webm"}
FIRST_POLL_SECONDS = 0.2
LONGEST_POLL_SECONDS = 1.0

OnChange = Callable[[dict[str, Any]], None]


def wait_for_job(
    client: Client, job_id: str, *, on_change: OnChange | None = None, timeout_seconds: float | None = None
) -> dict[str, Any]:
    """The job, once it has ended: succeeded, failed or cancelled. `on_change` sees every change on the way.

    Raises:
        Transient: `timeout_seconds` have passed; the job goes on.
    """
    return _wait(
        client, f"/jobs/{job_id}", lambda job: bool(job["state"] in ENDED), on_change, timeout_seconds
    )


def wait_for_batch(
    client: Client, batch_id: str, *, on_change: OnChange | None = None, timeout_seconds: float | None = None
) -> dict[str, Any]:
    """The batch, once all its jobs have ended.

    Raises:
        Transient: `timeout_seconds` have passed; the batch goes on.
    """

    def ended(batch: dict[str, Any]) -> bool:
        return sum(int(batch["states"].get(state, 0)) for state in ENDED) >= int(batch["total"])

    return _wait(client, f"/batches/{batch_id}", ended, on_change, timeout_seconds)


def _wait(
    client: Client,
    path: str,
    ended: Callable[[dict[str, Any]], bool],
    on_change: OnChange | None,
    timeout_seconds: float | None,
) -> dict[str, Any]:
    began = client.clock.monotonic()
    pause, etag = FIRST_POLL_SECONDS, ""
    seen: dict[str, Any] = {}
    while True:
        response = client.request("GET", path, headers={"If-None-Match": etag} if etag else None)
        if response.status_code != 304:
            seen, etag = response.json(), response.headers.get("ETag", "")
            pause = FIRST_POLL_SECONDS
            if on_change is not None:
                on_change(seen)
            if ended(seen):
                return seen
        if timeout_seconds is not None and client.clock.monotonic() - began >= timeout_seconds:
            raise Transient(
                f"{path[1:]} has not ended after {timeout_seconds:g} s", "it goes on; wait again later"
            )
        client.clock.sleep(pause)
        pause = min(pause * 1.2, LONGEST_POLL_SECONDS)


def download_images(client: Client, job: dict[str, Any], folder: Path) -> list[Path]:
    """The results of a succeeded job as `<job>_<n>.png` (of videos `.webm`) in `folder`, each checked against its
    recorded hash."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        download(
            client,
            f"/images/{image['id']}/content",
            folder / f"{job['id']}_{number}{_ENDINGS.get(image.get('media_type', ''), '.png')}",
            image["sha256"],
        )
        for number, image in enumerate(job["images"])
    ]


def submit_batch(client: Client, path: Path, *, name: str = "", dry_run: bool = False) -> dict[str, Any]:
    """Queue a file of jobs: `.jsonl` (a job a line), `.csv` (a job a row) or `.json` (a matrix). All or none.

    Raises:
        BadRequest: some rows are wrong; `problems` has a pointer to each.
    """
    media_type = BATCH_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise BadRequest(
            f"{path.name}: unknown kind of file", f"use one of {', '.join(BATCH_TYPES)}", code="unknown_file"
        )
    params = {"name": name or path.stem}
    if dry_run:
        params["dry_run"] = "true"
    response = client.request(
        "POST",
        "/batches",
        params=params,
        content=lambda: chunks(path),
        headers={
            "Content-Type": media_type,
            "Content-Length": str(path.stat().st_size),
            "Idempotency-Key": str(uuid.uuid4()),
        },
        timeout_seconds=300,
    )
    batch: dict[str, Any] = response.json()
    return batch
