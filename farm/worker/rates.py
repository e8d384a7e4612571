"""Speeds that this worker measured: what the scheduler plans with and people are told."""

from __future__ import annotations

import threading
from collections import OrderedDict

#: How much a new measurement counts against what was known.
_SHARE = 0.3
#: Keys kept; the least recently measured go.
_MOST = 200


class Rates:
    """Moving averages: seconds per step and picture by batch key, seconds per load by model key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: OrderedDict[str, float] = OrderedDict()
        self._loads: OrderedDict[str, float] = OrderedDict()

    def step_took(self, batch_key: str, seconds: float, pictures: int) -> None:
        self._note(self._steps, batch_key, seconds / pictures)

    def load_took(self, model_key: str, seconds: float) -> None:
        self._note(self._loads, model_key, seconds)

    def seconds_per_step(self) -> dict[str, float]:
        with self._lock:
            return {key: round(value, 6) for key, value in self._steps.items()}

    def load_seconds(self) -> dict[str, float]:
        with self._lock:
            return {key: round(value, 4) for key, value in self._loads.items()}

    def _note(self, known: OrderedDict[str, float], key: str, seconds: float) -> None:
        with self._lock:
            before = known.get(key, seconds)
            known[key] = before + _SHARE * (seconds - before)
            known.move_to_end(key)
            while len(known) > _MOST:
                known.popitem(last=False)
