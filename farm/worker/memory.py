"""What a worker keeps in memory between jobs: adapters, least recently used first to go, and loaded models."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger(__name__)


class _Sized(Protocol):
    @property
    def bytes(self) -> int: ...


A = TypeVar("A", bound=_Sized)


@dataclass(slots=True)
class _Kept(Generic[A]):
    adapter: A
    users: int = 0
    #: made ready before any job asked, and not used yet
    early: bool = False


class AdapterCache(Generic[A]):
    """Adapters by (content, model), at most `limit_count` of them and `limit_bytes` in all.

    What a job uses stays until it lets go, so both limits are exceeded by a job that needs more than they allow.
    """

    def __init__(self, limit_count: int, limit_bytes: int):
        self._limit_count = limit_count
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], _Kept[A]] = OrderedDict()
        self._loading: dict[tuple[str, str], threading.Lock] = {}

    @contextmanager
    def use(self, sha256: str, model_key: str, load: Callable[[], A]) -> Iterator[tuple[A, bool]]:
        """The adapter and whether it was hot; `load` is called once however many ask for it at a time."""
        key = (sha256, model_key)
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            kept = self._hold(key)
            hit = kept is not None
            if kept is None:
                kept = self._admit(key, load())
        try:
            yield kept.adapter, hit
        finally:
            with self._lock:
                kept.users -= 1
                self._shrink()

    def make_ready(self, sha256: str, model_key: str, load: Callable[[], A]) -> bool:
        """Hold an adapter before a job asks for it; False when it was hot already, or nothing may be held unused.

        At most a quarter of the limits (one at least, by count) is held for jobs that may not come; what a job uses stays.
        """
        key = (sha256, model_key)
        with self._lock:
            if key in self._kept or not self._limit_count:
                return False
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                if key in self._kept:
                    return False
            adapter = load()
            with self._lock:
                if adapter.bytes <= self._limit_bytes // 4:
                    self._drop_early(
                        max(1, self._limit_count // 4) - 1, self._limit_bytes // 4 - adapter.bytes
                    )
                    self._kept[key] = _Kept(adapter, early=True)
                self._shrink()
                return key in self._kept

    def drop(self, sha256: str) -> None:
        """Forget an adapter, for every model; who uses it now keeps it."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == sha256]:
                del self._kept[key]

    def drop_unused(self) -> int:
        """Forget everything that no job uses; returns the bytes set free."""
        with self._lock:
            return self._evict(0, 0)

    def hashes(self) -> tuple[str, ...]:
        """Contents in memory, the latest used last."""
        with self._lock:
            return tuple(dict.fromkeys(key[0] for key in self._kept))

    def bytes(self) -> int:
        with self._lock:
            return sum(kept.adapter.bytes for kept in self._kept.values())

    def _hold(self, key: tuple[str, str]) -> _Kept[A] | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                kept.users += 1
                kept.early = False
                self._kept.move_to_end(key)
            return kept

    def _admit(self, key: tuple[str, str], adapter: A) -> _Kept[A]:
        with self._lock:
            kept = self._kept[key] = _Kept(adapter, users=1)
            self._shrink()
            return kept

    def _drop_early(self, count: int, size: int) -> None:
        """Of what was made ready and not used, keep the latest so many, of so many bytes."""
        for key in reversed([key for key, kept in self._kept.items() if kept.early]):
            count, size = count - 1, size - self._kept[key].adapter.bytes
            if count < 0 or size < 0:
                del self._kept[key]

    def _shrink(self) -> None:
        self._evict(self._limit_count, self._limit_bytes)
        self._loading = {
            key: lock for key, lock in self._loading.items() if key in self._kept or lock.locked()
        }

    def _evict(self, count: int, size: int) -> int:
        total = sum(kept.adapter.bytes for kept in self._kept.values())
        freed = 0
        for key, kept in list(self._kept.items()):
            if len(self._kept) <= count and total - freed <= size:
                break
            if kept.users == 0:
                del self._kept[key]
                freed += kept.adapter.bytes
                log.debug("adapter_evicted", sha256=key[0][:12], bytes=kept.adapter.bytes)
        return freed


class _Closable(Protocol):
    def close(self) -> None: ...


M = TypeVar("M", bound=_Closable)


class ModelCache(Generic[M]):
    """Loaded models by key, at most `limit` of them. Only the thread that owns the device calls `get` and `drop_others`."""

    def __init__(self, limit: int):
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, M] = OrderedDict()

    def get(self, key: str, load: Callable[[], M]) -> tuple[M, bool]:
        """The model and whether it was hot. Room is made before loading, so two never need to fit at once."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key], True
            surplus = list(self._kept)[: max(0, len(self._kept) - self._limit + 1)]
        self._evict(surplus)
        model = load()
        with self._lock:
            self._kept[key] = model
        return model, False

    def drop_others(self, key: str) -> None:
        """Forget all models but this one."""
        self._evict([other for other in self._kept if other != key])

    def drop(self, key: str) -> None:
        self._evict([key] if key in self._kept else [])

    def holds(self, key: str) -> bool:
        return key in self._kept

    def hot(self) -> tuple[str, ...]:
        """Keys of what is loaded, the latest used last. Safe from any thread."""
        with self._lock:
            return tuple(self._kept)

    def _evict(self, keys: Sequence[str]) -> None:
        for key in keys:
            with self._lock:
                model = self._kept.pop(key)
            log.info("model_evicted", model=key[:12])
            model.close()
