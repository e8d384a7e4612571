"""The simulated fleet: caches, what each worker was given, and when it is done. Fetching overlaps with the job before."""

from __future__ import annotations

from collections import OrderedDict

from farm.jobs.rates import ADAPTER_SECONDS, FETCH_BYTES_PER_SECOND, Rates
from farm.scheduler.group import Need
from farm.scheduler.lanes import WorkerView
from farm.scheduler.simulate.trace import Ask, Trace

WINDOW = 2
#: adapters in memory, as `lora_in_memory_limit` has it by default of a farm's worker here
MEMORY = 16
#: adapters on disk
DISK = 256
#: adapters in memory that were fetched early and not used yet
AHEAD = MEMORY // 4


class SimWorker:
    """Jobs run in the order they were given, so a job's start is known when it is given."""

    __slots__ = (
        "_held", "_models", "_rates", "_stored", "ahead", "bytes", "coming", "disk", "down_until", "epoch", "fetched_at",
        "free_at", "hits", "memory", "model", "name", "open", "requests",
    )  # fmt: skip

    def __init__(self, number: int, rates: Rates):
        self.name = f"w{number:05}"
        self.free_at = 0.0
        self.fetched_at = 0.0
        self.down_until = 0.0
        #: grows with each failure: what ended before it is void
        self.epoch = 0
        #: job -> when its sampling began
        self.open: dict[int, float] = {}
        self.model: str | None = None
        self.memory: OrderedDict[str, None] = OrderedDict()
        self.disk: OrderedDict[str, None] = OrderedDict()
        self.hits = self.requests = self.bytes = 0
        #: adapter -> when it will have been fetched ahead of any job; and those that lie ready and were not used yet
        self.coming: dict[str, float] = {}
        self.ahead: set[str] = set()
        self._rates = rates
        # every model is on every disk already: traces show a fleet in operation, not its first hour
        self._models = frozenset(rates.load_seconds)
        self._held: frozenset[str] | None = None
        self._stored: frozenset[str] | None = None

    def room(self) -> int:
        return WINDOW - len(self.open)

    def give(self, number: int, ask: Ask, now: float) -> tuple[float, float]:
        """Take a job at `now`; returns when its sampling begins and ends."""
        need = ask.key.need
        fetch, prepare, arrives = 0, 0.0, 0.0
        self._settle(now)
        if self.model != need.model_key:
            self.model = need.model_key
            prepare += ask.load_seconds
        for sha, size in need.adapters:
            self.requests += 1
            if sha in self.memory:
                # what was fetched for it was not found, only fetched early
                self.hits += sha not in self.ahead
            else:
                prepare += ADAPTER_SECONDS
                if sha in self.coming:
                    arrives = max(arrives, self.coming.pop(sha))
                elif sha not in self.disk:
                    fetch += size
            self.ahead.discard(sha)
            self._keep(sha)
        self.bytes += fetch
        if fetch:
            self.fetched_at = max(self.fetched_at, now) + fetch / FETCH_BYTES_PER_SECOND
            # what is fetched early waits for it
            self.coming = {sha: at + fetch / FETCH_BYTES_PER_SECOND for sha, at in self.coming.items()}
        begins = max(self.free_at, now, arrives, self.fetched_at if fetch else 0.0) + prepare
        self.free_at = begins + ask.seconds
        self.open[number] = begins
        return begins, self.free_at

    def prefetch(self, need: Need, now: float) -> None:
        """Fetch the adapters of a job that waits, when the network has nothing else to do; parse them when there."""
        self._settle(now)
        if self.coming or self.fetched_at > now:
            return
        done = now
        for sha, size in need.adapters:
            if sha not in self.disk:
                done += size / FETCH_BYTES_PER_SECOND
                self.coming[sha] = done
                self.bytes += size
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Take in what was fetched early and has come by now; few such adapters lie unused at a time."""
        if not self.coming:
            return
        for sha in [sha for sha, at in self.coming.items() if at <= now]:
            del self.coming[sha]
            if parse := len(self.ahead) < AHEAD:
                self.ahead.add(sha)
            self._keep(sha, memory=parse)

    def _keep(self, sha: str, *, memory: bool = True) -> None:
        if memory:
            if sha not in self.memory:
                self._held = None
            self._use(self.memory, MEMORY, sha)
        if sha not in self.disk:
            self._stored = None
        self._use(self.disk, DISK, sha)

    def _use(self, cache: OrderedDict[str, None], limit: int, sha: str) -> None:
        cache[sha] = None
        cache.move_to_end(sha)
        if len(cache) > limit:
            self.ahead.discard(cache.popitem(last=False)[0])

    def fail(self, now: float, down: float) -> list[int]:
        """Lose the process: memory and what it was given; the disk stays. Returns the jobs it had."""
        lost = list(self.open)
        self.open.clear()
        self.epoch += 1
        self.model = None
        self.memory.clear()
        self.coming.clear()
        self.ahead.clear()
        self._held = None
        self.down_until = self.free_at = self.fetched_at = max(self.down_until, now + down)
        return lost

    def view(self, number: str, now: float) -> WorkerView:
        self._settle(now)
        if self._held is None:
            self._held = frozenset(self.memory)
        if self._stored is None:
            self._stored = self._models.union(self.disk)
        return WorkerView(
            id=number,
            name=self.name,
            free_slots=self.room(),
            busy_seconds=max(0.0, self.free_at - now),
            model_key=self.model,
            adapters=self._held,
            disk=self._stored,
            rates=self._rates,
        )


class SimFleet:
    """All workers, and which of them have room."""

    def __init__(self, trace: Trace, workers: int):
        rates = Rates(seconds_per_step=trace.step_seconds(), load_seconds=trace.load_seconds())
        self.workers = [SimWorker(number, rates) for number in range(workers)]
        #: numbers of those that are up and take more
        self.roomy = set(range(workers))

    def up(self, now: float) -> list[tuple[int, SimWorker]]:
        return [(number, worker) for number, worker in enumerate(self.workers) if now >= worker.down_until]

    def room(self) -> int:
        return sum(self.workers[number].room() for number in self.roomy)

    def give(self, where: int, number: int, ask: Ask, now: float) -> float:
        """Hand a job to a worker; returns when it will end."""
        worker = self.workers[where]
        assert now >= worker.down_until, f"{worker.name} is down"
        assert worker.room() > 0, f"{worker.name} has no room"
        _, end = worker.give(number, ask, now)
        if worker.room() <= 0:
            self.roomy.discard(where)
        return end

    def end(self, where: int, number: int) -> float:
        """A job is done; returns when its sampling began."""
        self.roomy.add(where)
        return self.workers[where].open.pop(number)

    def fail(self, where: int, at: float, down: float) -> list[int]:
        self.roomy.discard(where)
        return self.workers[where].fail(at, down)

    def back(self, where: int, at: float) -> None:
        """The worker is up again, unless it failed once more meanwhile."""
        if at >= self.workers[where].down_until:
            self.roomy.add(where)
