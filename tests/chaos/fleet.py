"""Real worker and scheduler processes that start in milliseconds, forked from one that has loaded torch already.

Each may carry faults: it kills or stops itself right before or after an effect, the same place every time.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from farm.clock import SystemClock
from farm.settings import Settings
from tests.support.history import check_history
from tests.support.worker import Rig

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["farm.worker.main", "farm.scheduler.main", "farm.web.app", "tests.support.web"]
)

#: Timers of production divided by ten and more, so that what takes a lease takes seconds.
QUICK: dict[str, Any] = {
    "heartbeat_seconds": 0.2, "lease_seconds": 2.5, "leader_lease_seconds": 0.8, "claim_seconds": 1.0,
    "round_seconds": 0.1, "poll_seconds": 0.5, "drain_seconds": 4.0, "preview_every": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """`act` happens to the process itself at the `call`-th call of an effect."""

    effect: str
    when: Literal["before", "after"] = "before"
    act: Literal["kill", "stop"] = "kill"
    call: int = 1

    def wrap(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0
        number = signal.SIGKILL if self.act == "kill" else signal.SIGSTOP

        def faulty(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            here = calls == self.call
            if here and self.when == "before":
                os.kill(os.getpid(), number)
            result = effect(*given, **named)
            if here and self.when == "after":
                os.kill(os.getpid(), number)
            return result

        return faulty


class JumpingClock(SystemClock):
    """Its wall time jumps to and fro by so many seconds, twice a second; its monotonic time does not."""

    def __init__(self, seconds: float):
        self._jump = seconds

    def now(self) -> datetime:
        sign = 1 if int(self.monotonic() * 2) % 2 else -1
        return super().now() + timedelta(seconds=sign * self._jump)


def work(settings: Settings, faults: Sequence[Fault], log: Path, jump: float) -> None:
    """A worker process."""
    from farm.worker import main

    _set_up(log)
    if jump:
        main.SystemClock = lambda: JumpingClock(jump)  # type: ignore[assignment,misc]

    def wrap(effects: Any) -> Any:
        for fault in faults:
            effects = dataclasses.replace(
                effects, **{fault.effect: fault.wrap(getattr(effects, fault.effect))}
            )
        return effects

    main.run(settings, wrap)


def schedule(settings: Settings, faults: Sequence[Fault], log: Path, jump: float) -> None:
    """A scheduler process; its effects are `send_render` and `deliver`."""
    from farm.scheduler import main

    _set_up(log)
    if jump:
        main.SystemClock = lambda: JumpingClock(jump)  # type: ignore[assignment,misc]
    for fault in faults:
        setattr(main, fault.effect, fault.wrap(getattr(main, fault.effect)))
    main.run(settings)


def _set_up(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Fleet:
    """The processes of one test around its rig."""

    rig: Rig
    processes: list[BaseProcess] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)

    def worker(self, name: str, *faults: Fault, jump: float = 0.0, **settings: Any) -> BaseProcess:
        return self._start(work, name, faults, jump, {"worker_name": name} | settings)

    def scheduler(self, *faults: Fault, jump: float = 0.0, **settings: Any) -> BaseProcess:
        return self._start(schedule, "scheduler", faults, jump, settings)

    def _start(
        self,
        target: Callable[..., None],
        name: str,
        faults: Sequence[Fault],
        jump: float,
        settings: dict[str, Any],
    ) -> BaseProcess:
        full = self.rig.settings.model_copy(update=QUICK | settings)
        log = self.rig.folder / f"{name}.log"
        process = CONTEXT.Process(
            target=target, args=(full, tuple(faults), log, jump), name=name, daemon=True
        )
        process.start()
        self.processes.append(process)
        return process

    def submit(self, count: int = 1, **values: Any) -> list[str]:
        """So many queued jobs; `values` are of their specs."""
        made = [self.rig.add_job(**values) for _ in range(count)]
        self.jobs += made
        return made

    def finished(self, *states: str, seconds: float = 90.0) -> None:
        """Wait until all jobs have ended, as one of `states`, and check the history."""
        ends = ("succeeded", "failed", "cancelled")
        self.rig.wait_until(
            lambda: all(self.rig.job(job).state in ends for job in self.jobs), self.logs, seconds
        )
        check_history(self.rig.sessions, self.rig.store, self.jobs, self.rig.settings.cache_dir)
        found = {job: self.rig.job(job).state for job in self.jobs}
        assert set(found.values()) <= set(states or ("succeeded",)), (found, self.logs())

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in self.rig.folder.glob("*.log")
        )

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(10)


def kill(process: BaseProcess, number: signal.Signals = signal.SIGKILL) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)
