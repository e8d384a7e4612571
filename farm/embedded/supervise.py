"""Keep processes running: what dies is started again, with growing pauses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from farm.clock import Clock
from farm.errors import FarmError

#: Pauses before a dead process is started again, by how often it has died lately.
BACKOFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
#: A process that ran this long has earned a fresh start of its backoff.
GOOD_RUN_SECONDS = 60.0


class Process(Protocol):
    """A service or a server of the embedded stack."""

    role: str

    @property
    def pid(self) -> int | None: ...

    @property
    def log(self) -> Path: ...

    def start(self) -> None: ...

    def exit_code(self) -> int | None: ...


@dataclass(slots=True)
class Watched:
    """One process, how often it has died lately, and when it is due again."""

    name: str
    process: Process
    deaths: int = 0
    started_at: float = 0.0
    restart_at: float | None = None


class Supervisor:
    """Call `look` a few times a second, from the main thread."""

    def __init__(self, clock: Clock, say: Callable[[str], None]):
        self._clock = clock
        self._say = say
        self.watched: list[Watched] = []

    def add(self, name: str, process: Process) -> None:
        """Watch a process that was just started."""
        self.watched.append(Watched(name, process, started_at=self._clock.monotonic()))

    def of_role(self, role: str) -> list[Watched]:
        return [watched for watched in self.watched if watched.process.role == role]

    def look(self) -> bool:
        """Restart what is due; returns whether any process has a new pid."""
        restarted = [self._look_at(watched, self._clock.monotonic()) for watched in self.watched]
        return any(restarted)

    def _look_at(self, watched: Watched, now: float) -> bool:
        if watched.restart_at is None:
            code = watched.process.exit_code()
            if code is not None:
                if now - watched.started_at > GOOD_RUN_SECONDS:
                    watched.deaths = 0
                self._plan_restart(watched, now, f"ended with code {code}")
            return False
        if now < watched.restart_at:
            return False
        watched.restart_at = None
        watched.started_at = now
        try:
            watched.process.start()
        except FarmError as error:
            self._plan_restart(watched, now, f"did not start: {error}")
            return False
        return True

    def _plan_restart(self, watched: Watched, now: float, what: str) -> None:
        pause = BACKOFF_SECONDS[min(watched.deaths, len(BACKOFF_SECONDS) - 1)]
        watched.deaths += 1
        watched.restart_at = now + pause
        self._say(f"! {watched.name} {what}; starting it again in {pause:g} s (log: {watched.process.log})")
