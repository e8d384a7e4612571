"""Seconds to start a job on a worker, from rates that the worker measured itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farm.jobs.rates import (
    ADAPTER_SECONDS,
    FETCH_BYTES_PER_SECOND,
    LOAD_BYTES_PER_SECOND,
    LOAD_SECONDS,
    step_seconds,
)

#: While every worker is busy, a choice that fetches an adapter counts the fetch so many times more: it takes the shared
#: network and a place in a full cache, and the copy that is elsewhere was to be found.
FETCH_WEIGHT = 3.0
#: So many times the load of the model that is displaced counts too: somebody has to load it again.
DISPLACE_WEIGHT = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Measured on one worker; guesses for a middling disk, network and device until it has measured."""

    #: by batch key
    seconds_per_step: Mapping[str, float] = field(default_factory=dict)
    #: by model key
    load_seconds: Mapping[str, float] = field(default_factory=dict)
    fetch_bytes_per_second: float = FETCH_BYTES_PER_SECOND
    #: to parse and patch one adapter that is on disk
    adapter_seconds: float = ADAPTER_SECONDS

    def step_seconds(self, batch_key: str) -> float:
        """Seconds of one step; for an unknown key the mean of the known ones, or a guess."""
        return step_seconds(self.seconds_per_step, batch_key)

    def job_seconds(self, batch_key: str, steps: int, count: int) -> float:
        return self.step_seconds(batch_key) * steps * count

    def model_seconds(self, model_key: str, model_bytes: int = 0) -> float:
        """Seconds to load a model from disk; for an unknown one the mean of the known ones, or a guess."""
        known = self.load_seconds
        if model_key in known:
            return known[model_key]
        if known:
            return sum(known.values()) / len(known)
        return LOAD_SECONDS + model_bytes / LOAD_BYTES_PER_SECOND


def start_cost(
    rates: Rates, *, model_key: str, model_hot: bool, model_bytes: int, cold_bytes: int, cold_adapters: int
) -> float:
    """Seconds between "the device is free" and the first step.

    `model_bytes` and `cold_bytes` are what is not on the worker's disk yet.
    """
    seconds = cold_bytes / rates.fetch_bytes_per_second + cold_adapters * rates.adapter_seconds
    if not model_hot:
        seconds += rates.model_seconds(model_key, model_bytes) + model_bytes / rates.fetch_bytes_per_second
    return seconds


def toll(rates: Rates, *, displaced: str | None, cold_bytes: int) -> float:
    """What a start takes from others while no worker is idle, in seconds; `displaced`: the model that has to go for it."""
    seconds = FETCH_WEIGHT * cold_bytes / rates.fetch_bytes_per_second
    if displaced is not None:
        seconds += DISPLACE_WEIGHT * rates.model_seconds(displaced)
    return seconds
