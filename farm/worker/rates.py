"""Speeds that this worker measured: what the scheduler plans with and people are told."""

from __future__ import annotations

import threading
from collections import OrderedDict

from farm.worker.mode import Costs

#: How much a new measurement counts against what was known.
_SHARE = 0.3
#: A smaller download tells of the way there and back, not of the bytes between.
LEAST_BYTES = 1_000_000
#: Keys kept; the least recently measured go.
_MOST = 200


class Rates:
    """Moving averages: seconds per step and picture by batch key, seconds per load by model key, bytes a second of
    downloads, seconds to parse and to patch one adapter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: OrderedDict[str, float] = OrderedDict()
        self._loads: OrderedDict[str, float] = OrderedDict()
        #: bytes and seconds of downloads: large ones count for more
        self._fetches: tuple[float, float] | None = None
        self._parse: float | None = None
        self._patch: float | None = None

    def step_took(self, batch_key: str, seconds: float, pictures: int) -> None:
        self._note(self._steps, batch_key, seconds / pictures)

    def load_took(self, model_key: str, seconds: float) -> None:
        self._note(self._loads, model_key, seconds)

    def fetched(self, size: int, seconds: float) -> None:
        """A file of so many bytes was downloaded."""
        if size < LEAST_BYTES:
            return
        with self._lock:
            before = self._fetches or (0.0, 0.0)
            self._fetches = ((1 - _SHARE) * before[0] + size, (1 - _SHARE) * before[1] + seconds)

    def adapters_parsed(self, number: int, seconds: float) -> None:
        """So many adapters were read from disk."""
        with self._lock:
            self._parse = _average(self._parse, seconds / number)

    def adapters_patched(self, number: int, seconds: float) -> None:
        """So many adapters, none of which was applied before, were applied once."""
        with self._lock:
            self._patch = _average(self._patch, seconds / number)

    def fetch_bytes_per_second(self) -> float | None:
        """None until a download of `LEAST_BYTES` was seen."""
        with self._lock:
            size, seconds = self._fetches or (0.0, 0.0)
            return round(size / seconds) if seconds > 0 else None

    def adapter_seconds(self) -> float | None:
        """To parse an adapter and to apply it; None until one was parsed."""
        with self._lock:
            return None if self._parse is None else round(self._parse + (self._patch or 0.0), 6)

    def seconds_per_step(self) -> dict[str, float]:
        with self._lock:
            return {key: round(value, 6) for key, value in self._steps.items()}

    def load_seconds(self) -> dict[str, float]:
        with self._lock:
            return {key: round(value, 4) for key, value in self._loads.items()}

    def _note(self, known: OrderedDict[str, float], key: str, seconds: float) -> None:
        with self._lock:
            known[key] = _average(known.get(key), seconds)
            known.move_to_end(key)
            while len(known) > _MOST:
                known.popitem(last=False)


class ModeRates:
    """What the two ways of applying adapters cost on one loaded model. Only the device's thread calls it."""

    def __init__(self) -> None:
        self._layer: float | None = None
        #: seconds per step and picture, by way and batch key
        self._steps: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wrote(self, seconds: float, layers: int, *, first: bool) -> None:
        """`layers` weights were written; the `first` time of a job, which also copies, counts when nothing else does."""
        if first and self._layer is not None:
            return
        self._layer = _average(self._layer, seconds / layers)

    def step_took(self, mode: str, batch_key: str, seconds: float) -> None:
        """One step and picture, without what was written between steps."""
        self._steps[mode, batch_key] = _average(self._steps.get((mode, batch_key)), seconds)
        self._steps.move_to_end((mode, batch_key))
        while len(self._steps) > _MOST:
            self._steps.popitem(last=False)

    def costs(self, batch_key: str, pictures: int) -> Costs:
        """For jobs of this key, so many pictures at a time."""
        plain, beside = (self._steps.get((mode, batch_key)) for mode in ("patch", "branch"))
        branch = None if plain is None or beside is None else max(0.0, beside - plain) * pictures
        return Costs(layer=self._layer, branch=branch)


def _average(before: float | None, value: float) -> float:
    return value if before is None else before + _SHARE * (value - before)
