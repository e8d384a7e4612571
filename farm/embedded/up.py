"""`farm up`: servers, scheduler, web and workers as child processes, watched, restarted, stopped in order.

The services are the same processes as in production; only the addresses that they are given differ. A server whose
address is set (`FARM_REDIS_URL`, `FARM_S3_ENDPOINT`, `FARM_DATABASE_URL`) is not started.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from farm.clock import Clock
from farm.db.engine import make_engine, make_sessions, migrate
from farm.embedded.ports import check_port, free_port
from farm.embedded.postgres import EmbeddedPostgres
from farm.embedded.process import Child
from farm.embedded.secrets import load_or_make, write_private
from farm.embedded.seed import seed_demo
from farm.embedded.servers import SeaweedServer, ValkeyServer
from farm.errors import Conflict, Permanent, Transient
from farm.jobs.users import ensure_single_user
from farm.settings import Settings
from farm.store.s3 import open_store

MIN_FREE_BYTES = 500 * 1024**2
READY_SECONDS = 60.0
#: Pauses before a dead child is started again, by how often it has died lately.
BACKOFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
#: A child that ran this long has earned a fresh start of its backoff.
GOOD_RUN_SECONDS = 60.0


@dataclass(slots=True)
class _Watched:
    child: Child
    deaths: int = 0
    started_at: float = 0.0
    restart_at: float | None = None


@dataclass(slots=True)
class EmbeddedFarm:
    """One running farm on this machine. Call `start`, then `watch` until it is time, then `stop`."""

    settings: Settings
    clock: Clock
    workers: int
    postgres: bool
    info_files: tuple[Path, ...]
    #: one line of progress for a person
    say: Callable[[str], None]
    url: str = ""
    api_key: str = ""
    _lock: IO[str] | None = None
    _servers: list[Any] = field(default_factory=list)
    _watched: list[_Watched] = field(default_factory=list)
    _environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start everything and return once the dashboard answers and every worker has reported.

        Raises:
            Conflict: another farm uses this data folder.
            Permanent: a port, a program or the disk's space is missing; nothing is left running.
            Transient: something did not become ready in time; nothing is left running.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        data = self.settings.data_dir.absolute()
        data.mkdir(parents=True, exist_ok=True)
        self._take_lock(data)
        free = shutil.disk_usage(data).free
        if free < MIN_FREE_BYTES:
            raise Permanent(
                f"{data} has {free // 1024**2} MB free", "Farm needs at least 500 MB; free some space"
            )
        if self.settings.port:
            check_port(self.settings.host, self.settings.port)
        secrets = load_or_make(data)
        running = self._start_servers(data, secrets)
        self.say("· bringing the database up to date")
        migrate(running.resolved_database_url())
        self._seed(running)
        self._start_services(running, data)
        self._write_info(running)

    def _take_lock(self, data: Path) -> None:
        self._lock = (data / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise Conflict(
                f"another farm is running on {data}", "stop it, or give --data another folder"
            ) from None

    def _start_servers(self, data: Path, secrets: dict[str, str]) -> Settings:
        given = self.settings
        redis_url, endpoint = given.redis_url.get_secret_value(), given.s3_endpoint
        access, secret = given.s3_access_key.get_secret_value(), given.s3_secret_key.get_secret_value()
        database_url = given.database_url
        starting: list[Any] = []
        if not redis_url:
            valkey = ValkeyServer(data / "redis", password=secrets["redis_password"])
            starting.append(valkey)
        if not endpoint:
            access, secret = secrets["s3_access_key"], secrets["s3_secret_key"]
            weed = SeaweedServer(data / "s3", access_key=access, secret_key=secret, bucket=given.s3_bucket)
            starting.append(weed)
        if self.postgres and not database_url:
            server = EmbeddedPostgres(
                data / "postgres", free_port(), secrets["postgres_password"], self.clock
            )
            starting.append(server)
            database_url = server.url
        for one in starting:
            self.say(f"· starting {one.label}")
            self._servers.append(one)
            one.start()
        return given.model_copy(
            update={
                "data_dir": data,
                "database_url": database_url
                or given.model_copy(update={"data_dir": data}).resolved_database_url(),
                "redis_url": type(given.redis_url)(redis_url or valkey.url),
                "s3_endpoint": endpoint or weed.endpoint,
                "s3_access_key": type(given.s3_access_key)(access),
                "s3_secret_key": type(given.s3_secret_key)(secret),
                "secret_key": type(given.secret_key)(
                    given.secret_key.get_secret_value() or secrets["session_key"]
                ),
                "port": given.port or free_port(),
            }
        )

    def _seed(self, running: Settings) -> None:
        engine = make_engine(running.resolved_database_url())
        sessions = make_sessions(engine)
        store = open_store(running)
        store.ensure_bucket()
        key_file = running.data_dir / "api-key"
        with sessions.begin() as session:
            owner, made = ensure_single_user(session, self.clock.now())
        if made:
            write_private(key_file, made)
        self.api_key = key_file.read_text().strip()
        if seed_demo(sessions, store, owner, self.clock.now()):
            self.say("· put the built-in model and its adapters into the store")
        engine.dispose()

    def _start_services(self, running: Settings, data: Path) -> None:
        self._environment = environment_of(running)
        self._add("scheduler", "scheduler", ["scheduler"], data)
        self._add("web", "web", ["web"], data)
        for number in range(1, self.workers + 1):
            self._add("worker", f"worker-{number}", ["worker", "--name", f"worker-{number}"], data)
        for watched in self._watched:
            watched.child.start()
            watched.started_at = self.clock.monotonic()
        host = "127.0.0.1" if running.host in ("0.0.0.0", "::") else running.host
        self.url = f"http://{host}:{running.port}"
        workers = "" if self.workers == 0 else f" and {self.workers} worker{'s' if self.workers > 1 else ''}"
        self.say(f"· starting scheduler, dashboard{workers}")
        self._await_ready()

    def _add(self, role: str, name: str, arguments: list[str], data: Path) -> None:
        command = [sys.executable, "-m", "farm.cli", *arguments]
        self._watched.append(
            _Watched(Child(role, name, command, self._environment, data / "logs" / f"{name}.log"))
        )

    def _await_ready(self) -> None:
        deadline = self.clock.monotonic() + READY_SECONDS
        with httpx.Client(
            trust_env=False, timeout=5, headers={"authorization": f"Bearer {self.api_key}"}
        ) as http:
            while not self._is_ready(http):
                for watched in self._watched:
                    if watched.child.exit_code() is not None:
                        raise Permanent(
                            f"{watched.child.name} ended with code {watched.child.exit_code()} while starting",
                            f"{watched.child.last_words()} (log: {watched.child.log})",
                        )
                if self.clock.monotonic() > deadline:
                    raise Transient(
                        f"the farm was not ready after {READY_SECONDS:.0f} s",
                        f"see the logs in {self._watched[0].child.log.parent}",
                    )
                self.clock.sleep(0.1)

    def _is_ready(self, http: httpx.Client) -> bool:
        try:
            answer = http.get(f"{self.url}/api/v1/workers")
        except httpx.TransportError:
            return False
        if not answer.is_success:
            return False
        mine = {watched.child.name for watched in self._watched if watched.child.role == "worker"}
        return mine <= {row["name"] for row in answer.json()["items"] if row["state"] == "up"}

    def _write_info(self, running: Settings) -> None:
        self._running = running
        processes = [
            {"role": server.role, "name": server.role, "pid": server.pid} for server in self._servers
        ] + [
            {"role": watched.child.role, "name": watched.child.name, "pid": watched.child.pid}
            for watched in self._watched
        ]
        info = {
            "url": self.url,
            "api_key": self.api_key,
            "redis_url": running.redis_url.get_secret_value(),
            "database_url": running.resolved_database_url(),
            "s3": {
                "endpoint": running.s3_endpoint,
                "access_key": running.s3_access_key.get_secret_value(),
                "secret_key": running.s3_secret_key.get_secret_value(),
                "bucket": running.s3_bucket,
            },
            "processes": processes,
        }
        for path in self.info_files:
            write_private(path, json.dumps(info, indent=1))

    def watch(self, stopping: Callable[[], bool]) -> None:
        """Restart what dies, with growing pauses, until `stopping()`."""
        while not stopping():
            self.clock.sleep(0.2)
            now = self.clock.monotonic()
            for watched in self._watched:
                self._revive(watched, now)

    def _revive(self, watched: _Watched, now: float) -> None:
        if watched.restart_at is None:
            code = watched.child.exit_code()
            if code is None:
                return
            if now - watched.started_at > GOOD_RUN_SECONDS:
                watched.deaths = 0
            pause = BACKOFF_SECONDS[min(watched.deaths, len(BACKOFF_SECONDS) - 1)]
            watched.deaths += 1
            watched.restart_at = now + pause
            self.say(f"! {watched.child.name} ended with code {code}; starting it again in {pause:g} s")
        elif now >= watched.restart_at:
            watched.restart_at = None
            watched.child.start()
            watched.started_at = now
            self._write_info(self._running)

    def stop(self) -> None:
        """Stop in the order in which nothing is missed: web, workers (they drain), scheduler, then the servers."""
        order = {"web": 0, "worker": 1, "scheduler": 2}
        for role in sorted(order, key=lambda role: order[role]):
            children = [watched.child for watched in self._watched if watched.child.role == role]
            for child in children:
                child.terminate()
            for child in children:
                child.wait(self.settings.drain_seconds + 10 if role == "worker" else 10)
        for server in reversed(self._servers):
            server.stop()
        self._watched.clear()
        self._servers.clear()
        for path in self.info_files:
            path.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def environment_of(settings: Settings) -> dict[str, str]:
    """`FARM_…` variables that give a child process these settings."""
    values: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        if text not in ("", None):
            values[f"FARM_{name.upper()}"] = str(text)
    return values
