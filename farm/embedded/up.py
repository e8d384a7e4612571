"""`farm up`: servers, scheduler, web and workers as child processes, watched, restarted, stopped in order.

The services are the same processes as in production; only the addresses that they are given differ. A server whose
address is set (`FARM_REDIS_URL`, `FARM_S3_ENDPOINT`, `FARM_DATABASE_URL`) is not started.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from farm.clock import Clock
from farm.db.engine import make_engine, make_sessions, migrate
from farm.embedded.ports import check_port
from farm.embedded.postgres import EmbeddedPostgres
from farm.embedded.process import Child, last_words
from farm.embedded.secrets import load_or_make, write_private
from farm.embedded.seed import seed_demo
from farm.embedded.servers import SeaweedServer, ValkeyServer, free_ports
from farm.embedded.supervise import Supervisor
from farm.errors import Conflict, Permanent, Transient
from farm.jobs.users import ensure_single_user
from farm.settings import Settings
from farm.store.s3 import open_store

MIN_FREE_BYTES = 500 * 1024**2
#: Generous: a worker imports torch, which takes minutes on a machine that is busy with other things.
READY_SECONDS = 240.0


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
    _servers: list[ValkeyServer | SeaweedServer | EmbeddedPostgres] = field(default_factory=list)
    _supervisor: Supervisor = field(init=False)
    _running: Settings = field(init=False)

    def __post_init__(self) -> None:
        self._supervisor = Supervisor(self.clock, self.say)
        self._running = self.settings

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
        self._running = running = self._start_servers(data, secrets)
        self.say("· bringing the database up to date")
        migrate(running.resolved_database_url())
        self._seed(running)
        self._start_services(running, data)
        self._write_info()

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
        starting: list[ValkeyServer | SeaweedServer | EmbeddedPostgres] = []
        if not redis_url:
            valkey = ValkeyServer(data / "redis", password=secrets["redis_password"], clock=self.clock)
            starting.append(valkey)
        if not endpoint:
            access, secret = secrets["s3_access_key"], secrets["s3_secret_key"]
            weed = SeaweedServer(
                data / "s3", access_key=access, secret_key=secret, bucket=given.s3_bucket, clock=self.clock
            )
            starting.append(weed)
        if self.postgres and not database_url:
            server = EmbeddedPostgres(
                data / "postgres", free_ports(1)[0], secrets["postgres_password"], self.clock
            )
            starting.append(server)
            database_url = server.url
        for one in starting:
            self.say(f"· starting {one.label}")
            self._servers.append(one)
            one.start()
            self._supervisor.add(one.role, one)
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
                "port": given.port or free_ports(1)[0],
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
        services = [("scheduler", "scheduler", ["scheduler"]), ("web", "web", ["web"])]
        services += [("worker", name, ["worker", "--name", name]) for name in self._worker_names()]
        workers = "" if self.workers == 0 else f" and {self.workers} worker{'s' if self.workers > 1 else ''}"
        self.say(f"· starting scheduler, dashboard{workers}")
        # several workers on one processor would wait for each other's threads
        threads = running.torch_threads or max(1, (os.cpu_count() or 1) // max(1, self.workers))
        environment = environment_of(running.model_copy(update={"torch_threads": threads}))
        for role, name, arguments in services:
            command = [sys.executable, "-m", "farm.cli", *arguments]
            child = Child(role, name, command, environment, data / "logs" / f"{name}.log")
            child.start()
            self._supervisor.add(name, child)
        host = "127.0.0.1" if running.host in ("0.0.0.0", "::") else running.host
        self.url = f"http://{host}:{running.port}"
        self._await_ready()

    def _worker_names(self) -> list[str]:
        return [f"worker-{number}" for number in range(1, self.workers + 1)]

    def _await_ready(self) -> None:
        deadline = self.clock.monotonic() + READY_SECONDS
        with httpx.Client(
            trust_env=False, timeout=5, headers={"authorization": f"Bearer {self.api_key}"}
        ) as http:
            while not self._is_ready(http):
                for watched in self._supervisor.watched:
                    code = watched.process.exit_code()
                    if code is not None:
                        raise Permanent(
                            f"{watched.name} ended with code {code} while starting",
                            f"{last_words(watched.process.log)} (log: {watched.process.log})",
                        )
                if self.clock.monotonic() > deadline:
                    raise Transient(
                        f"the farm was not ready after {READY_SECONDS:.0f} s",
                        f"see the logs in {self._running.data_dir / 'logs'}",
                    )
                self.clock.sleep(0.1)

    def _is_ready(self, http: httpx.Client) -> bool:
        try:
            answer = http.get(f"{self.url}/api/v1/workers")
        except httpx.TransportError:
            return False
        if not answer.is_success:
            return False
        return set(self._worker_names()) <= {
            row["name"] for row in answer.json()["items"] if row["state"] not in ("draining", "gone")
        }

    def _write_info(self) -> None:
        running = self._running
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
            "processes": [
                {"role": watched.process.role, "name": watched.name, "pid": watched.process.pid}
                for watched in self._supervisor.watched
            ],
        }
        for path in self.info_files:
            write_private(path, json.dumps(info, indent=1))

    def watch(self, stopping: Callable[[], bool]) -> None:
        """Restart what dies until `stopping()`."""
        while not stopping():
            self.clock.sleep(0.2)
            if self._supervisor.look():
                self._write_info()

    def stop(self) -> None:
        """Stop in the order in which nothing is missed: web, workers (they drain), scheduler, then the servers."""
        if self._lock is None:
            return
        for role in ("web", "worker", "scheduler"):
            children = [w.process for w in self._supervisor.of_role(role) if isinstance(w.process, Child)]
            for child in children:
                child.terminate()
            for child in children:
                child.wait(self.settings.drain_seconds + 10 if role == "worker" else 10)
        for server in reversed(self._servers):
            server.stop()
        self._supervisor.watched.clear()
        self._servers.clear()
        for path in self.info_files:
            path.unlink(missing_ok=True)
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
