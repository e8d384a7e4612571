"""The store against a real S3 server."""

from __future__ import annotations

import hashlib
import secrets
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from farm.embedded.servers import SeaweedServer
from farm.errors import NotFound, Transient
from farm.store import keys
from farm.store.s3 import Store, connect_store
from farm.store.sweep import sweep_results, sweep_uploads


@pytest.fixture
def key() -> str:
    return f"tests/{secrets.token_hex(8)}"


def test_bytes_round_trip_and_are_checked(store: Store, key: str) -> None:
    sha256 = store.put_bytes(key, b"hello", "text/plain")
    assert sha256 == hashlib.sha256(b"hello").hexdigest()
    assert store.get_bytes(key) == b"hello"
    assert b"".join(store.iter_bytes(key, 2)) == b"hello"
    assert (store.size(key), store.exists(key)) == (5, True)
    store.verify(key, size=5, sha256=sha256)
    with pytest.raises(Transient, match="5 bytes"):
        store.verify(key, size=4)
    with pytest.raises(Transient, match="other bytes"):
        store.verify(key, size=5, sha256="ab" * 32)


@pytest.mark.parametrize(("start", "length", "found"), [
    (0, 5, b"01234"), (3, 4, b"3456"), (8, 100, b"89"), (10, 5, b""), (99, 5, b""), (2, 0, b""),
])  # fmt: skip
def test_ranges(store: Store, key: str, start: int, length: int, found: bytes) -> None:
    store.put_bytes(key, b"0123456789")
    assert store.get_range(key, start, length) == found


def test_large_files_travel_in_parts(store: Store, key: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(secrets.token_bytes(1024) * 1024 * 65)
    store.put_file(key, path)
    store.download(key, tmp_path / "again")
    store.copy(key, key + "-copy")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert store.size(key + "-copy") == path.stat().st_size
    store.delete(key)
    store.delete(key + "-copy")


def test_what_is_not_there(store: Store, key: str, tmp_path: Path) -> None:
    assert store.size(key) is None
    assert not store.exists(key)
    store.delete(key)
    for act in (
        lambda: store.get_bytes(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.download(key, tmp_path / "file"),
        lambda: list(store.iter_bytes(key)),
        lambda: store.copy(key, key + "2"),
        lambda: store.verify(key, size=1),
    ):
        with pytest.raises(NotFound, match=key):
            act()
    assert not (tmp_path / "file").exists()


def test_addresses_for_browsers(store: Store, key: str) -> None:
    put = store.presigned_put(key, seconds=60, size=4)
    assert httpx.put(put, content=b"12345", trust_env=False).status_code == 403
    assert not store.exists(key)
    assert httpx.put(put, content=b"1234", trust_env=False).status_code == 200
    answer = httpx.get(
        store.presigned_get(key, seconds=60, filename='füchs "1".png', content_type="image/png"),
        trust_env=False,
    )
    assert answer.content == b"1234"
    assert answer.headers["content-type"] == "image/png"
    assert "filename*=UTF-8''f%C3%BCchs%20%221%22.png" in answer.headers["content-disposition"]
    plain = store.presigned_get(key, seconds=60)
    assert "content-disposition" not in httpx.get(plain, trust_env=False).headers
    assert httpx.get(plain.split("?")[0], trust_env=False).status_code == 403


def test_addresses_for_browsers_name_the_public_endpoint(seaweed: SeaweedServer) -> None:
    store = connect_store(
        endpoint=seaweed.endpoint, access_key=seaweed.access_key, secret_key=seaweed.secret_key,
        bucket="farm", public_endpoint="https://files.example.org",
    )  # fmt: skip
    assert store.presigned_get("a", seconds=60).startswith("https://files.example.org/farm/a?")
    assert store.presigned_put("a", seconds=60, size=1).startswith("https://files.example.org/farm/a?")
    assert store.size("not-there") is None


def test_a_store_that_is_away_or_refuses_is_told_as_transient(seaweed: SeaweedServer, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    away = connect_store(
        endpoint=f"http://127.0.0.1:{port}", access_key="a", secret_key="b", bucket="farm", tries=1
    )
    for act in (lambda: away.get_bytes("a"), lambda: away.put_bytes("a", b""), lambda: away.exists("a")):
        with pytest.raises(Transient, match="unreachable"):
            act()
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(Transient, match="unreachable"):
        away.put_file("a", tmp_path / "file")
    stranger = connect_store(
        endpoint=seaweed.endpoint, access_key=seaweed.access_key, secret_key="wrong", bucket="farm"
    )
    with pytest.raises(Transient, match="SignatureDoesNotMatch"):
        stranger.get_bytes("a")


def test_a_body_that_breaks_off_is_told_as_transient(tmp_path: Path) -> None:
    """A server that promises ten bytes, gives three and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(65536)
                    connection.sendall(
                        b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "x"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n'
                    )
                    if request.startswith(b"GET"):
                        connection.sendall(b"abc")

        threading.Thread(target=serve, daemon=True).start()
        store = connect_store(
            endpoint=f"http://127.0.0.1:{server.getsockname()[1]}", access_key="a", secret_key="b", bucket="farm",
            tries=1,
        )  # fmt: skip
        with pytest.raises(Transient):
            store.get_bytes("a")
        with pytest.raises(Transient):
            list(store.iter_bytes("a"))
        with pytest.raises(Transient):
            store.download("a", tmp_path / "file")


def test_a_bucket_is_made_once(seaweed: SeaweedServer) -> None:
    store = connect_store(
        endpoint=seaweed.endpoint, access_key=seaweed.access_key, secret_key=seaweed.secret_key,
        bucket=f"new-{secrets.token_hex(4)}",
    )  # fmt: skip
    store.ensure_bucket()
    store.put_bytes("a", b"1")
    store.ensure_bucket()
    assert store.get_bytes("a") == b"1"


@pytest.fixture
def own_store(seaweed: SeaweedServer) -> Iterator[Store]:
    """A store that holds nothing of other tests."""
    opened = seaweed.open()
    opened.bucket = f"own-{secrets.token_hex(4)}"
    opened.ensure_bucket()
    yield opened
    opened.close()


def test_orphans_are_swept_and_results_are_not(own_store: Store) -> None:
    store = own_store
    owner = f"user_{secrets.token_hex(4)}"
    lost, kept = keys.result(owner, "job_a", 1, 0), keys.result(owner, "job_a", 2, 0)
    unknown, foreign = keys.result(owner, "job_b", 1, 0), f"results/{owner}/notes.txt"
    upload = keys.upload(f"upload_{secrets.token_hex(4)}")
    for one in (lost, kept, unknown, foreign, upload):
        store.put_bytes(one, b"1")
    now = datetime.now(UTC)

    assert sweep_results(store, lambda ids: {}, now).deleted == 0
    assert sweep_uploads(store, now).deleted == 0
    later = now + timedelta(hours=25)
    swept = sweep_results(store, lambda ids: {"job_a": 2}, later)
    sweep_uploads(store, later)

    assert swept.deleted == 2
    assert [store.exists(one) for one in (lost, kept, unknown, foreign, upload)] == [
        False, True, False, True, False,
    ]  # fmt: skip
