"""The web service as a process: it serves many streams at once and stops in good order, with the client of this package."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from farm.client.adapters import upload_adapter
from farm.client.events import follow
from farm.client.http import Client
from farm.client.jobs import download_images, submit_batch, wait_for_batch, wait_for_job
from farm.embedded.servers import SeaweedServer, ValkeyServer
from farm.errors import BadRequest, Conflict, FarmError, NotFound
from farm.queue import events
from farm.queue.events import Event
from farm.web.build import STREAMS_PER_USER
from farm.web.sse import HEARTBEAT_SECONDS
from tests.support.web import WebFarm, lora_file, render

PROGRAM = """
import sys
from farm.settings import load_settings
from farm.web.main import run
run(load_settings())
"""


class Server:
    """One web process on the database of `farm`."""

    def __init__(self, farm: WebFarm, valkey: ValkeyServer, seaweed: SeaweedServer):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = farm.folder / "web.log"
        environment = {
            **os.environ,
            "FARM_DATA_DIR": str(farm.folder),
            "FARM_DATABASE_URL": f"sqlite:///{farm.folder / 'farm.db'}",
            "FARM_REDIS_URL": valkey.url,
            "FARM_S3_ENDPOINT": seaweed.endpoint,
            "FARM_S3_ACCESS_KEY": seaweed.access_key,
            "FARM_S3_SECRET_KEY": seaweed.secret_key,
            "FARM_S3_BUCKET": seaweed.bucket,
            "FARM_PORT": str(self.port),
            "FARM_WEB_THREADS": "32",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.client = Client(f"http://127.0.0.1:{self.port}", farm.key, retries=12)
        self.client.get("/stats")

    def stop(self) -> None:
        """Stop in good order."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()


@pytest.fixture
def server(farm: WebFarm, valkey: ValkeyServer, seaweed: SeaweedServer) -> Iterator[Server]:
    running = Server(farm, valkey, seaweed)
    yield running
    running.client.close()
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def test_the_client_does_the_whole_journey(server: Server, farm: WebFarm, tmp_path: Path):
    client = server.client
    file = tmp_path / "Ink Wash.safetensors"
    file.write_bytes(lora_file())
    assert upload_adapter(client, file, "ink")["name"] == "ink"
    assert [row["name"] for row in client.pages("/loras")] == ["ink"]

    job = client.submit({"prompt": "a fox <lora:ink:0.8>"})
    picture = render(farm, job["id"])
    done = wait_for_job(client, job["id"], timeout_seconds=60)
    assert done["images"][0]["id"] == picture
    assert download_images(client, done, tmp_path / "out")[0].read_bytes() == b"\x89PNG picture"

    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,seed\na fox,1\nan owl,2\n")
    assert submit_batch(client, rows, dry_run=True)["total"] == 2
    batch = submit_batch(client, rows)
    client.post(f"/batches/{batch['id']}:cancel")
    assert wait_for_batch(client, batch["id"], timeout_seconds=60)["states"]["cancelled"] == 2

    with pytest.raises(NotFound):
        client.get("/jobs/job_none")
    with pytest.raises(Conflict):
        client.post(f"/jobs/{job['id']}:cancel")
    with pytest.raises(BadRequest) as caught:
        client.submit({"prompt": "a <lora:inc:1>"})
    assert caught.value.problems[0].column > 0
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(lora_file()[:300])
    with pytest.raises(FarmError):
        upload_adapter(client, damaged, "damaged")


def test_streams_leave_room_for_requests_and_end_with_the_process(server: Server, farm: WebFarm):
    seen: list[str] = []
    opened = threading.Barrier(11)
    other = Client(server.client.url, farm.stranger_key)

    def read(client: Client) -> None:
        stream = client.stream("/events")
        with stream as response:
            lines = response.iter_lines()
            next(line for line in lines if line == "event: hello")
            opened.wait(60)
            for line in lines:
                if line.startswith('data: {"n'):
                    seen.append(line)

    threads = [
        threading.Thread(target=read, args=(client,), daemon=True) for client in [server.client, other] * 5
    ]
    for thread in threads:
        thread.start()
    opened.wait(60)
    assert server.client.get("/stats")["waiting"] == 0
    events.publish(farm.services.redis, Event(topic="workers", type="worker", owner="", data={"n": 1}))
    deadline = time.monotonic() + 60
    while len(seen) < 10 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(seen) == 10
    server.stop()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    other.close()


def test_a_stream_whose_reader_left_frees_its_slot(server: Server):
    with ExitStack() as opened:
        for _ in range(STREAMS_PER_USER):
            answer = opened.enter_context(server.client.stream("/events"))
            next(answer.iter_lines())
        with server.client.stream("/events") as answer:
            assert answer.status_code == 429
    deadline = time.monotonic() + HEARTBEAT_SECONDS * 0.7  # a heartbeat would notice as well, but late
    status = 429
    while status == 429 and time.monotonic() < deadline:
        time.sleep(0.1)
        with server.client.stream("/events") as answer:
            status = answer.status_code
    assert status == 200


def test_a_reader_of_events_sees_what_happens(server: Server, farm: WebFarm):
    job = server.client.submit({"prompt": "a fox"})
    found = follow(server.client, job_id=job["id"], breaks=3)
    assert next(found).data["state"] == "queued"
    render(farm, job["id"])
    events.publish(
        farm.services.redis,
        Event(topic="jobs", type="job", owner=farm.owner_id, data={"id": job["id"], "state": "succeeded"}),
    )
    assert [event.data["state"] for event in found][-1] == "succeeded"
    server.stop()


def test_nothing_of_a_key_is_in_the_log(server: Server, farm: WebFarm):
    with pytest.raises(BadRequest):
        Client(server.client.url, farm.key[:-1]).get("/jobs")
    server.stop()
    log = server.log.read_text()
    assert farm.key[:-2] not in log
