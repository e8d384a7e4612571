"""One simulated worker: caches, what it was given, and when it is done. Fetching overlaps with the job before."""

from __future__ import annotations

from collections import OrderedDict

from farm.jobs.rates import ADAPTER_SECONDS, FETCH_BYTES_PER_SECOND, Rates
from farm.scheduler.group import Need
from farm.scheduler.lanes import WorkerView
from farm.scheduler.simulate.trace import BY_NAME, MODELS, UNKNOWN, Ask, ModelKind

WINDOW = 2
#: adapters in memory, as `lora_in_memory_limit` has it by default of a farm's worker here
MEMORY = 16
#: adapters on disk
DISK = 256
#: adapters in memory that were fetched early and not used yet
AHEAD = MEMORY // 4
RATES = Rates(
    seconds_per_step={kind.name: kind.step_seconds for kind in MODELS},
    load_seconds={kind.name: kind.load_seconds for kind in MODELS},
)
#: every model is on every disk already: traces show a fleet in operation, not its first hour
MODEL_KEYS = frozenset(BY_NAME)


def kind_of(need: Need) -> ModelKind:
    return BY_NAME.get(need.model_key, UNKNOWN)


def sampling_seconds(ask: Ask) -> float:
    return kind_of(ask.key.need).step_seconds * ask.steps


class SimWorker:
    """Jobs run in the order they were given, so a job's start is known when it is given."""

    __slots__ = (
        "_held",
        "_stored",
        "ahead",
        "bytes",
        "coming",
        "disk",
        "down_until",
        "epoch",
        "fetched_at",
        "free_at",
        "hits",
        "memory",
        "model",
        "models",
        "name",
        "open",
        "requests",
    )  # fmt: skip

    def __init__(self, number: int):
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
        self._held: frozenset[str] = frozenset()
        self._stored: frozenset[str] = MODEL_KEYS

    def room(self, now: float) -> int:
        return 0 if now < self.down_until else WINDOW - len(self.open)

    def give(self, number: int, ask: Ask, now: float) -> tuple[float, float]:
        """Take a job at `now`; returns when its sampling begins and ends."""
        need, kind = ask.key.need, kind_of(ask.key.need)
        fetch, prepare, arrives = 0, 0.0, 0.0
        self._settle(now)
        if self.model != need.model_key:
            self.model = need.model_key
            prepare += kind.load_seconds
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
        self.free_at = begins + sampling_seconds(ask)
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
        for sha in [sha for sha, at in self.coming.items() if at <= now]:
            del self.coming[sha]
            if parse := len(self.ahead) < AHEAD:
                self.ahead.add(sha)
            self._keep(sha, memory=parse)

    def _keep(self, sha: str, *, memory: bool = True) -> None:
        for cache, limit in ((self.memory, MEMORY * memory), (self.disk, DISK)):
            if limit:
                cache[sha] = None
                cache.move_to_end(sha)
                if len(cache) > limit:
                    self.ahead.discard(cache.popitem(last=False)[0])
        self._held, self._stored = frozenset(self.memory), frozenset(self.disk) | MODEL_KEYS

    def fail(self, now: float, down: float) -> list[int]:
        """Lose the process: memory and what it was given; the disk stays. Returns the jobs it had."""
        lost = list(self.open)
        self.open.clear()
        self.epoch += 1
        self.model = None
        self.memory.clear()
        self.coming.clear()
        self.ahead.clear()
        self._held = frozenset()
        self.down_until = self.free_at = self.fetched_at = now + down
        return lost

    def view(self, number: str, now: float) -> WorkerView:
        self._settle(now)
        return WorkerView(
            id=number,
            name=self.name,
            free_slots=self.room(now),
            busy_seconds=max(0.0, self.free_at - now),
            model_key=self.model,
            adapters=self._held,
            disk=self._stored,
            rates=RATES,
        )
