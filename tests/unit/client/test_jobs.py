"""Waiting, downloading and sending batches."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from farm.client.jobs import download_images, submit_batch, wait_for_batch, wait_for_job
from farm.errors import BadRequest, Permanent, Transient

from .test_http import FakeClock, client


def test_waiting_sees_each_change_once_and_ends_with_the_job():
    states = [("queued", 0), ("running", 3), ("running", 3), ("succeeded", 20)]

    def answer(request: httpx.Request) -> httpx.Response:
        state, step = states.pop(0)
        etag = f'W/"{state}{step}"'
        if request.headers.get("If-None-Match") == etag:
            return httpx.Response(304)
        return httpx.Response(200, json={"id": "job_1", "state": state, "step": step}, headers={"ETag": etag})

    seen: list[tuple[str, int]] = []
    job = wait_for_job(
        client(answer), "job_1", on_change=lambda now: seen.append((now["state"], now["step"]))
    )
    assert job["state"] == "succeeded"
    assert seen == [("queued", 0), ("running", 3), ("succeeded", 20)]


def test_waiting_gives_up_in_time():
    clock = FakeClock()

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"state": "queued"})

    with pytest.raises(Transient, match="has not ended after 5 s"):
        wait_for_job(client(answer, clock), "job_1", timeout_seconds=5)
    assert clock.monotonic() < 8


def test_a_batch_has_ended_when_all_its_jobs_have():
    answers = [{"succeeded": 1, "running": 2}, {"succeeded": 1, "failed": 1, "cancelled": 1}]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"total": 3, "states": answers.pop(0)})

    assert wait_for_batch(client(answer), "batch_1")["states"]["failed"] == 1


def _job(sha256: str) -> dict[str, object]:
    return {"id": "job_1", "images": [{"id": "img_1", "sha256": sha256}]}


def test_downloads_are_checked_and_whole(tmp_path: Path):
    content = b"\x89PNG picture"

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/images/img_1/content"
        return httpx.Response(200, content=content)

    files = download_images(client(answer), _job(hashlib.sha256(content).hexdigest()), tmp_path / "out")
    assert [file.name for file in files] == ["job_1_0.png"]
    assert files[0].read_bytes() == content


def test_wrong_bytes_are_refused_and_leave_no_file(tmp_path: Path):
    with pytest.raises(Permanent, match="not those that were recorded"):
        download_images(client(lambda request: httpx.Response(200, content=b"x")), _job("0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.jsonl", "application/x-ndjson"), ("a.csv", "text/csv"), ("a.json", "application/json")],
)
def test_a_batch_file_is_streamed_under_its_type(tmp_path: Path, name: str, media_type: str):
    path = tmp_path / name
    path.write_text("content")

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Type"] == media_type
        assert request.headers["Idempotency-Key"]
        assert request.url.params["dry_run"] == "true"
        assert request.url.params["name"] == "mine"
        assert request.read() == b"content"
        return httpx.Response(200, json={"total": 1})

    assert submit_batch(client(answer), path, name="mine", dry_run=True) == {"total": 1}


def test_an_unknown_kind_of_file_is_refused_before_it_is_sent(tmp_path: Path):
    with pytest.raises(BadRequest, match=r"a\.xlsx: unknown kind of file"):
        submit_batch(client(lambda request: httpx.Response(500)), tmp_path / "a.xlsx")
