"""Seconds to start a job on a worker, from rates that the worker measured itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Used until a worker has measured its own: a middling disk, network and device.
FETCH_BYTES_PER_SECOND = 100e6
LOAD_BYTES_PER_SECOND = 500e6
LOAD_SECONDS = 1.0
ADAPTER_SECONDS = 0.05
STEP_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Measured by one worker: seconds per step by batch key, seconds per model load."""

    seconds_per_step: Mapping[str, float] = field(default_factory=dict)
    load_seconds: Mapping[str, float] = field(default_factory=dict)

    def step_seconds(self, batch_key: str) -> float:
        """Seconds of one step; for an unknown key the mean of the known ones, or a guess."""
        known = self.seconds_per_step
        if batch_key in known:
            return known[batch_key]
        return sum(known.values()) / len(known) if known else STEP_SECONDS

    def job_seconds(self, batch_key: str, steps: int, count: int) -> float:
        return self.step_seconds(batch_key) * steps * count


def start_cost(
    rates: Rates, *, model_hot: bool, model_bytes: int, cold_bytes: int, cold_adapters: int
) -> float:
    """Seconds between "the device is free" and the first step.

    `model_bytes` and `cold_bytes` are what is not on the worker's disk yet.
    """
    seconds = cold_bytes / FETCH_BYTES_PER_SECOND + cold_adapters * ADAPTER_SECONDS
    if not model_hot:
        known = rates.load_seconds.values()
        load = sum(known) / len(known) if known else LOAD_SECONDS + model_bytes / LOAD_BYTES_PER_SECOND
        seconds += load + model_bytes / FETCH_BYTES_PER_SECOND
    return seconds
