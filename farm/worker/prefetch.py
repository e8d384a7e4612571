"""What comes next, made ready early: the files of a job that the leader expects to give to this worker, on disk and parsed.

Nothing else of the job is done, and nobody depends on it. It gives way to the fetches of jobs in hand, evicts only what
has not been used for long, ends when the leader expects something else, and keeps quiet about trouble: the job's own
fetch meets it again and tells the person.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
from sqlalchemy.exc import DBAPIError

from farm.errors import FarmError, NotFound, Transient
from farm.jobs.loading import JobForWorker
from farm.jobs.prepare import Network
from farm.jobs.states import HELD, State
from farm.lora.tensors import Adapter
from farm.store.disk import DiskCache
from farm.store.trees import open_tree
from farm.worker.effects import Effects
from farm.worker.held import Hands
from farm.worker.layouts import Layouts
from farm.worker.memory import AdapterCache
from farm.worker.traffic import Early, Traffic

log = structlog.get_logger(__name__)

#: Bytes asked for at a time: between two parts it is looked whether a job wants the network.
PART_BYTES = 4 * 1024 * 1024
#: A file that was used within this time does not make room for one that may not be needed.
IDLE_SECONDS = 600.0
_LOOK_SECONDS = 0.2
_MOST_READY = 1000


class Prefetcher:
    """One thread that makes the ordered job's files ready; `order` is called by the heartbeat, the rest by jobs."""

    def __init__(
        self,
        effects: Effects,
        disk: DiskCache,
        adapters: AdapterCache[Adapter],
        layouts: Layouts,
        traffic: Traffic,
        hands: Hands,
        model_hot: Callable[[str], bool],
        worker_id: str,
    ):
        self._effects = effects
        self._disk = disk
        self._adapters = adapters
        self._layouts = layouts
        self._traffic = traffic
        self._hands = hands
        self._model_hot = model_hot
        self._worker_id = worker_id
        self._changed = threading.Condition()
        self._order: str | None = None
        #: the order that was carried out, as far as that went
        self._done: str | None = None
        self._closing = False
        #: sizes of files that were made ready and that no job has used yet
        self._ready: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 1.0) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def order(self, job_id: str | None) -> None:
        """Make this waiting job's files ready; what was ordered before is dropped, unless it is of use for this one."""
        with self._changed:
            self._order = job_id
            self._changed.notify_all()

    def idle(self) -> bool:
        """Whether nothing is left to do of what was ordered."""
        with self._changed:
            return self._order == self._done

    def used(self, sha256: str) -> int:
        """A job uses this file: the bytes of it that had been fetched early, told once."""
        with self._changed:
            self._hands.prefetch_hits += sha256 in self._ready
            return self._ready.pop(sha256, 0)

    def _note(self, sha256: str, size: int) -> None:
        with self._changed:
            self._ready.setdefault(sha256, size)
            while len(self._ready) > _MOST_READY:
                del self._ready[next(iter(self._ready))]

    def _run(self) -> None:
        job_id: str | None = None
        while True:
            with self._changed:
                self._done = job_id
                while not self._closing and self._order == self._done:
                    self._changed.wait()
                if self._closing:
                    return
                job_id = self._order
            if job_id is not None:
                self._try(job_id)

    def _try(self, job_id: str) -> None:
        try:
            job = self._effects.read_job(job_id)
            if job.state == State.QUEUED:
                self._make_ready(job, _Order(self, job))
        except _Dropped:
            log.info("prefetch_dropped", job_id=job_id)
        except (FarmError, DBAPIError, OSError) as error:
            log.info("prefetch_failed", job_id=job_id, error=str(getattr(error, "orig", error)))
        except Exception:
            # a thread that ends would make nothing ready any more
            log.exception("prefetch_failed", job_id=job_id)

    def _make_ready(self, job: JobForWorker, order: _Order) -> None:
        cold = not self._model_hot(job.model.key)
        for sha256, size in files_of(job, model=cold).items():
            self._fetch(sha256, size, order)
        if cold:
            open_tree(self._disk, job.model.files, lambda sha256, path: self._missing(path)).close()
        for network in job.networks:
            if not self._traffic.wait_turn(None, order.stands):
                raise _Dropped
            self._parse(network, job)

    def _fetch(self, sha256: str, size: int, order: _Order) -> None:
        while order.stands():
            if self._disk.holds(sha256, size):
                # looked into now, it need not be when the job comes; and it counts as used
                with suppress(NotFound):
                    self._disk.get(sha256, size, self._missing).close()
                    return
                continue
            # one process of this machine fetches a file early, and the others find it
            with self._disk.try_locked(f"early-{sha256[:3]}") as free:
                if free:
                    if not self._disk.try_room(size, IDLE_SECONDS):
                        raise Transient(f"{size} bytes would push out files that were used of late")
                    with self._disk.temporary_folder() as folder:
                        self._download(sha256, size, folder, order)
                    return
            with self._changed:
                self._changed.wait(_LOOK_SECONDS)
        raise _Dropped

    def _download(self, sha256: str, size: int, folder: Path, order: _Order) -> None:
        with self._traffic.early(sha256, folder / sha256) as early:
            with early.path.open("wb") as file:
                while file.tell() < size:
                    if not self._traffic.wait_turn(early, lambda: order.holds(early)):
                        raise _Dropped
                    part = self._effects.fetch_part(sha256, file.tell(), min(PART_BYTES, size - file.tell()))
                    if not part:
                        raise Transient(f"the store's copy of {sha256} is shorter than its {size} bytes")
                    file.write(part)
                    self._hands.bytes_prefetched += len(part)
            self._note(sha256, size)
            self._traffic.arrived(early)

            def move(path: Path) -> None:
                if not self._traffic.take(early, path):
                    raise Transient(f"{sha256} came damaged, or was taken by a job")

            try:
                self._disk.get(sha256, size, move).close()
            except BaseException:
                with self._changed:
                    self._ready.pop(sha256, None)
                raise
        log.info("prefetched", sha256=sha256[:12], bytes=size)

    def _parse(self, network: Network, job: JobForWorker) -> None:
        layout = self._layouts.of(job.model)

        def load() -> Adapter:
            with self._disk.get(network.sha256, network.size, self._missing) as entry:
                return self._effects.load_adapter(entry.path, layout, network.sha256, network.name)

        if self._adapters.make_ready(network.sha256, job.model.key, load):
            self._note(network.sha256, 0)

    @staticmethod
    def _missing(path: Path) -> None:
        raise NotFound("the file is not on this machine's disk any more, or damaged")


class _Dropped(Exception):
    """The leader expects something else now."""


class _Order:
    """Whether what is done for a job is still of use."""

    def __init__(self, prefetcher: Prefetcher, job: JobForWorker):
        self._prefetcher = prefetcher
        self._job = job
        #: the last order that was looked at, and what it said about which file
        self._seen: tuple[str | None, str] | None = None
        self._of_use = True

    def stands(self) -> bool:
        return not self._prefetcher._closing and self._prefetcher._order == self._job.id

    def holds(self, early: Early) -> bool:
        """Whether to go on with a file in the middle: the new order needs it too, or its job has come to this worker."""
        if self.stands() or early.wanted:
            return True
        order = self._prefetcher._order
        if self._prefetcher._closing:
            return False
        if self._seen != (order, early.sha256):
            self._seen = (order, early.sha256)
            self._of_use = self._is_of_use(order, early.sha256)
        return self._of_use

    def _is_of_use(self, order: str | None, sha256: str) -> bool:
        read = self._prefetcher._effects.read_job
        if order is not None and sha256 in files_of(read(order), model=True):
            return True
        mine = read(self._job.id)
        return mine.state in HELD and mine.worker_id == self._prefetcher._worker_id


def files_of(job: JobForWorker, *, model: bool) -> dict[str, int]:
    """Sizes of the files that a job needs, by hash: its adapters and, if asked, its model."""
    files = {network.sha256: network.size for network in job.networks}
    if model:
        files |= {file.sha256: file.size for file in job.model.files}
    return files
