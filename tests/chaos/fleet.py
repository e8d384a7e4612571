"""Real worker and scheduler processes that start in milliseconds, forked from one that has loaded torch already.

Each may carry faults: it kills or stops itself right before or after an effect, the same place every time.
"""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import psutil
from sqlalchemy import select, update

from farm.clock import SystemClock
from farm.db.models import Job
from farm.jobs import leases, moves
from farm.jobs.states import TERMINAL
from farm.scheduler import storewatch
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


#: For tests in which nothing is to expire: however slow the machine, what did is a mistake.
UNHURRIED: dict[str, Any] = {"lease_seconds": 60.0, "claim_seconds": 60.0}


Act = Literal["kill", "stop", "slow", "full", "scramble", "redeliver"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a process at the `call`-th call of an effect, or at each of the first `call` ones (full).

    - kill, stop: SIGKILL or SIGSTOP to itself, before or after the effect
    - slow: every call waits a tenth of a second
    - full: no space left on device
    - scramble: every message goes out three times, in no order, up to a second late
    - redeliver: of `messages` alone: Celery sends what is not acknowledged within a second again, and they are counted
    """

    effect: str
    when: Literal["before", "after"] = "before"
    act: Act = "kill"
    call: int = 1
    #: only calls of `step` for this seed count
    seed: int | None = None

    def wrap(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def faulty(*given: Any, **named: Any) -> Any:
            nonlocal calls
            counts = self.seed is None or any(self.seed in state.spec.seeds for state in given[1])
            calls += counts
            if self.act == "slow":
                time.sleep(0.1)
            elif self.act == "full" and calls <= self.call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            elif self.act == "scramble":
                for late in (0.6, 0.0, 1.0):
                    threading.Timer(late * random.random(), effect, given, named).start()
                return True
            here = counts and calls == self.call and self.act in _SIGNALS
            if here and self.when == "before":
                self._strike()
            result = effect(*given, **named)
            if here and self.when == "after":
                self._strike()
            return result

        return faulty

    def _strike(self) -> None:
        with _QUIET:
            os.kill(os.getpid(), _SIGNALS[self.act])


def quietly(effect: Callable[..., Any]) -> Callable[..., Any]:
    def alone(*given: Any) -> Any:
        with _QUIET:
            return effect(*given)

    return alone


#: held during every transaction of a worker, so that none is stopped in the middle of one: it would keep SQLite locked
_QUIET = threading.RLock()
_SQL = (
    "claim", "read_job", "beat", "assigned", "succeed", "succeed_with_adapter", "fail", "retry_later", "hand_back",
    "note_checkpoint", "resumed", "cancelled", "leave",
)  # fmt: skip
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


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

    if any(fault.act == "redeliver" for fault in faults):
        _redeliver()
        faults = [fault for fault in faults if fault.act != "redeliver"]

    def wrap(effects: Any) -> Any:
        effects = dataclasses.replace(effects, **{name: quietly(getattr(effects, name)) for name in _SQL})
        for fault in faults:
            effects = dataclasses.replace(
                effects, **{fault.effect: fault.wrap(getattr(effects, fault.effect))}
            )
        return effects

    main.run(settings, wrap)


def _redeliver() -> None:
    """Messages of this worker are taken for lost after a second; each that arrives leaves a line in the log."""
    from farm.worker import consumer

    make_app, receive = consumer.make_app, consumer.Consumer.receive
    hasty = {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}

    def make_hasty(redis_url: str) -> Any:
        app = make_app(redis_url)
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, **hasty}
        return app

    def count(self: Any, body: Any) -> None:
        print(f"received {body['job']}")
        receive(self, body)

    consumer.make_app = make_hasty
    consumer.Consumer.receive = count  # type: ignore[method-assign]


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
    moves.RETRY_SECONDS = 0.2
    storewatch.LOOK_SECONDS = 0.2
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_test, name="end-with-the-test", daemon=True).start()


def _end_with_the_test() -> None:
    """A test run that was killed itself leaves no fleet behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Fleet:
    """The processes of one test around its rig."""

    rig: Rig
    processes: list[BaseProcess] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    #: settings of every process
    timers: Mapping[str, Any] = field(default_factory=lambda: QUICK)

    def submit_with_webhook(self, url: str, **values: Any) -> str:
        (job,) = self.submit(**values)
        with self.rig.sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job).values(webhook=url))
        return job

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
        full = self.rig.settings.model_copy(update={**self.timers, **settings})
        log = self.rig.folder / f"{name}.log"
        process = CONTEXT.Process(
            target=target, args=(full, tuple(faults), log, jump), name=name, daemon=True
        )
        process.start()
        self.processes.append(process)
        return process

    def submit(self, number: int = 1, /, **values: Any) -> list[str]:
        """So many queued jobs; `values` are of their specs."""
        made = [self.rig.add_job(**values) for _ in range(number)]
        self.jobs += made
        return made

    def finished_jobs(self, *states: str, seconds: float = 120.0) -> None:
        """Wait until all jobs have ended, as one of `states`; not one more in so many seconds is a failure."""
        while left := self.unended():
            self.rig.wait_until(lambda: len(self.unended()) < len(left), self.logs, seconds)
        found = {job: self.rig.job(job).state for job in self.jobs}
        assert set(found.values()) <= set(states), (found, self.logs())

    def unended(self) -> list[str]:
        query = select(Job.id).where(Job.state.not_in(sorted(TERMINAL)), Job.id.in_(self.jobs))
        with self.rig.sessions() as session:
            return list(session.scalars(query))

    def finished(self, *states: str, seconds: float = 120.0) -> None:
        """As `finished_jobs`; by default all succeed; and check the history."""
        self.finished_jobs(*(states or ("succeeded",)), seconds=seconds)
        check_history(self.rig.sessions, self.rig.store, self.jobs, self.rig.settings.cache_dir)

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in self.rig.folder.glob("*.log")
        )

    def logged(self, *words: str) -> bool:
        """Whether any process has logged one of these."""
        texts = [path.read_text() for path in self.rig.folder.glob("*.log")]
        return any(word in text for word in words for text in texts)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(10)


def leader(fleet: Fleet, among: Sequence[BaseProcess]) -> BaseProcess:
    """The scheduler that leads, once one of these does."""
    found: list[BaseProcess] = []

    def look() -> bool:
        with fleet.rig.sessions() as session:
            lease = leases.read(session, "scheduler")
        found[:] = [process for process in among if lease and lease.holder.endswith(f":{process.pid}")]
        return bool(found)

    fleet.rig.wait_until(look, fleet.logs)
    return found[0]


def await_stopped(process: BaseProcess, fleet: Fleet) -> None:
    """Wait until a process has stopped itself."""
    fleet.rig.wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, fleet.logs)


def kill(process: BaseProcess, number: signal.Signals = signal.SIGKILL) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)
