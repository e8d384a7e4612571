"""Real servers for tests: one Valkey and one SeaweedFS a session, each test with a database or a prefix of its own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from farm.embedded.servers import SeaweedServer, ValkeyServer
from farm.queue.redis import connect
from farm.store.s3 import Store


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    folder = Path(tempfile.mkdtemp(prefix="farm-test-redis-"))
    server = ValkeyServer(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """The address of an empty Redis."""
    with connect(valkey.url) as redis:
        redis.flushall()
    return valkey.url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of 8 MB; skips the test where mounting one is not allowed."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    folder = Path(tempfile.mkdtemp(prefix="farm-test-s3-"))
    server = SeaweedServer(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def store(seaweed: SeaweedServer) -> Iterator[Store]:
    """A real store with its bucket; tests share it, so they take keys of their own."""
    opened = seaweed.open()
    opened.ensure_bucket()
    yield opened
    opened.close()
