"""The two threads that keep a worker honest with SQL: the heartbeat, and the look for jobs that no message told of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from sqlalchemy.exc import DBAPIError

from farm.jobs.reports import WorkerReport
from farm.worker.effects import Effects
from farm.worker.held import Hands, HeldJob
from farm.worker.progress import Progress
from farm.worker.stages import Stages

log = structlog.get_logger(__name__)

#: So many looks in a row that found jobs, without one message between them, mean that the consumer is deaf.
DEAF_LOOKS = 3


class Heartbeat:
    """Reports, counts on leases, and hears what was cancelled, lost or ordered; every `seconds`."""

    def __init__(
        self,
        effects: Effects,
        hands: Hands,
        progress: Progress,
        report: Callable[[], WorkerReport],
        register: Callable[[], None],
        reload: Callable[[], None],
        prefetch: Callable[[str | None], None],
        worker_id: str,
        seconds: float,
    ):
        self._effects = effects
        self._hands = hands
        self._progress = progress
        self._report = report
        self._register = register
        self._reload = reload
        self._prefetch = prefetch
        #: orders to reload that were there before this process had loaded anything
        self._reloads: int | None = None
        self._worker_id = worker_id
        self._loop = _Loop("heartbeat", seconds, self.beat)
        self.start, self.close = self._loop.start, self._loop.close

    def beat(self) -> None:
        """One heartbeat."""
        orders, answer = self._effects.beat(self._report(), self._hands.beats())
        if orders.gone:
            # what it held belongs to others now; it joins again as new
            log.warning("given_up_by_the_leader", held=len(self._hands.current()))
            self._hands.lose_all()
            self._prefetch(None)
            self._register()
            return
        self._hands.obey(answer)
        if self._reloads is not None and orders.reloads > self._reloads:
            self._reload()
        self._reloads = orders.reloads
        if orders.drain != self._hands.draining:
            self._hands.draining = orders.drain
            log.info("draining" if orders.drain else "resumed")
            self._progress.worker(self._worker_id, "draining" if orders.drain else "up")
        self._prefetch(orders.next_job if self._hands.takes_jobs() else None)


class Poll:
    """Looks into SQL for this worker's own jobs every `seconds`, so that a deaf Redis stalls nothing."""

    def __init__(
        self,
        effects: Effects,
        hands: Hands,
        stages: Stages,
        pool: ThreadPoolExecutor,
        messages: Callable[[], int],
        restart_consumer: Callable[[], None],
        seconds: float,
    ):
        self._effects = effects
        self._hands = hands
        self._stages = stages
        self._pool = pool
        self._messages = messages
        self._restart_consumer = restart_consumer
        self._seen = 0
        self._deaf = 0
        self._loop = _Loop("poll", seconds, self.look)
        self.start, self.close = self._loop.start, self._loop.close

    def look(self) -> int:
        """Start what waits for this worker; returns how many jobs were started. A draining worker hands it back."""
        if self._hands.draining:
            for job_id, attempt in self._effects.assigned():
                self._effects.hand_back(HeldJob(job_id, attempt), "drained")
            return 0
        if not self._stages.has_room():
            return 0
        started = 0
        for job_id, attempt in self._effects.assigned():
            if not self._stages.has_room():
                break
            log.info("found_in_sql", job_id=job_id, attempt=attempt)
            self._pool.submit(self._stages.run, job_id, attempt)
            started += 1
        self._judge_consumer(started)
        return started

    def _judge_consumer(self, started: int) -> None:
        messages = self._messages()
        if messages != self._seen:
            self._seen, self._deaf = messages, 0
        elif started:
            self._deaf += 1
            if self._deaf >= DEAF_LOOKS:
                log.warning("consumer_is_deaf", looks=self._deaf)
                self._deaf = 0
                self._restart_consumer()


class _Loop:
    """Calls an action every so many seconds, in a thread; a database that is away only pauses it."""

    def __init__(self, name: str, seconds: float, action: Callable[[], object]):
        self._name = name
        self._seconds = seconds
        self._action = action
        self._closing = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            try:
                self._action()
            except DBAPIError as error:
                if not self._away:
                    log.warning("database_away", loop=self._name, error=str(error.orig))
                self._away = True
            except Exception:
                # a loop that ends would cost every job its lease
                log.exception("loop_failed", loop=self._name)
            else:
                if self._away:
                    log.info("database_back", loop=self._name)
                self._away = False
