"""Two web processes on one database, one store and one Redis: whatever one of them began, the other goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from farm.client.adapters import upload_adapter
from farm.client.http import Client
from farm.embedded.servers import SeaweedServer, ValkeyServer
from tests.contract.test_api_server import Server
from tests.support.web import WebFarm, lora_file

ROWS = b'{"prompt": "a fox"}\n{"prompt": "an owl"}\n'


@pytest.fixture
def pair(farm: WebFarm, valkey: ValkeyServer, seaweed: SeaweedServer) -> Iterator[tuple[Server, Server]]:
    servers = (Server(farm, valkey, seaweed), Server(farm, valkey, seaweed))
    yield servers
    for server in servers:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def test_two_processes_are_one_farm(pair: tuple[Server, Server], farm: WebFarm, tmp_path: Path):
    clients = [server.client for server in pair]
    _a_key_is_kept_once(clients)
    _what_one_changes_the_other_tells(*clients)
    _an_adapter_of_one_is_used_by_the_other(*clients, tmp_path)
    _a_browser_may_be_moved(*clients, farm.key)
    for server in pair:
        server.stop()


def _a_key_is_kept_once(clients: list[Client]) -> None:
    """The same request, sent to both at once and many times, makes one batch."""

    def send(client: Client) -> dict[str, Any]:
        found: dict[str, Any] = client.request(
            "POST", "/batches", params={"name": "once"}, content=lambda: ROWS,
            headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": "the same"},
        ).json()  # fmt: skip
        return found

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, clients * 6))
    assert len({answer["id"] for answer in answers}) == 1
    assert [batch["total"] for batch in clients[0].get("/batches")["items"]] == [2]


def _what_one_changes_the_other_tells(first: Client, second: Client) -> None:
    """Events go through Redis: a stream at the one tells of a job that was given to the other, and cancelled there."""
    with second.stream("/events") as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line == "event: hello")
        job = first.submit({"prompt": "a fox"})["id"]
        assert job in next(line for line in lines if '"state": "queued"' in line)
        first.post(f"/jobs/{job}:cancel")
        assert job in next(line for line in lines if '"state": "cancelled"' in line)
    assert second.get(f"/jobs/{job}")["state"] == "cancelled"


def _an_adapter_of_one_is_used_by_the_other(first: Client, second: Client, folder: Path) -> None:
    file = folder / "ink.safetensors"
    file.write_bytes(lora_file())
    upload_adapter(first, file, "ink")
    assert second.submit({"prompt": "a fox <lora:ink:0.5>"})["networks"][0]["name"] == "ink"
    assert upload_adapter(second, file, "ink")["name"] == "ink"
    assert len(first.get("/loras")["items"]) == 1


def _a_browser_may_be_moved(first: Client, second: Client, key: str) -> None:
    """A session that one process began holds at the other, and so does the token of its forms."""
    with httpx.Client() as browser:
        assert browser.get(f"{first.url}/login?token={key}&next=/").status_code == 302
        assert browser.get(f"{second.url}/queue").status_code == 200
        form = browser.get(f"{first.url}/batches/new").text
        token = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', form)
        assert token is not None
        sent = {"kind": "rows", "rows": ROWS.decode(), "do": "check", "csrf_token": token[1]}
        answer = browser.post(f"{second.url}/batches/new", data=sent)
        assert (answer.status_code, "all rows are right" in answer.text) == (200, True)
