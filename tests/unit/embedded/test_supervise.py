"""What dies is started again, with growing pauses; a turned clock instead of waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from farm.embedded.secrets import load_or_make
from farm.embedded.supervise import BACKOFF_SECONDS, GOOD_RUN_SECONDS, Supervisor
from farm.embedded.up import environment_of
from farm.errors import Transient
from farm.settings import Settings


@dataclass
class TurnedClock:
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Mortal:
    """A process that dies when it is told to."""

    role: str = "worker"
    code: int | None = None
    starts: int = 0
    refuses: bool = False
    pid: int = 1
    log: Path = field(default=Path("x.log"))

    def start(self) -> None:
        self.starts += 1
        if self.refuses:
            raise Transient("not ready")
        self.code = None

    def exit_code(self) -> int | None:
        return self.code


def run(supervisor: Supervisor, clock: TurnedClock, seconds: float) -> None:
    for _ in range(int(seconds * 10)):
        clock.sleep(0.1)
        supervisor.look()


def test_a_dead_process_is_started_again_and_a_person_told() -> None:
    clock, told = TurnedClock(), []
    supervisor = Supervisor(clock, told.append)
    mortal = Mortal()
    supervisor.add("worker-1", mortal)
    run(supervisor, clock, 5)
    assert mortal.starts == 0
    mortal.code = -9
    run(supervisor, clock, 1)
    assert mortal.starts == 1
    assert "worker-1 ended with code -9" in told[0]


def test_pauses_grow_while_it_keeps_dying_and_start_small_after_a_good_run() -> None:
    clock = TurnedClock()
    supervisor = Supervisor(clock, lambda line: None)
    mortal = Mortal()
    supervisor.add("worker-1", mortal)
    pauses = []
    for _ in BACKOFF_SECONDS:
        mortal.code, died, before = 1, clock.seconds, mortal.starts
        while mortal.starts == before:
            run(supervisor, clock, 0.1)
        pauses.append(clock.seconds - died)
    assert pauses == sorted(pauses)
    assert pauses[-1] >= BACKOFF_SECONDS[-1]
    run(supervisor, clock, GOOD_RUN_SECONDS + 1)
    mortal.code, before = 1, mortal.starts
    run(supervisor, clock, 1)
    assert mortal.starts == before + 1


def test_a_start_that_fails_is_tried_again_later() -> None:
    clock, told = TurnedClock(), []
    supervisor = Supervisor(clock, told.append)
    mortal = Mortal(role="redis", refuses=True)
    supervisor.add("redis", mortal)
    mortal.code = 1
    run(supervisor, clock, 10)
    mortal.refuses = False
    run(supervisor, clock, 10)
    assert mortal.exit_code() is None
    assert any("did not start: not ready" in line for line in told)


def test_secrets_are_made_once_and_are_private(tmp_path: Path) -> None:
    first = load_or_make(tmp_path)
    assert load_or_make(tmp_path) == first
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert len(set(first.values())) == len(first)


def test_a_child_gets_every_setting_that_differs_from_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=1234, s3_endpoint="http://127.0.0.1:1")
    environment = environment_of(settings)
    assert environment["FARM_PORT"] == "1234"
    assert environment["FARM_S3_ENDPOINT"] == "http://127.0.0.1:1"
    assert "FARM_DATABASE_URL" not in environment
