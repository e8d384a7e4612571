"""Seconds to start a job on a worker; the same numbers that an estimate before submission goes by."""

from __future__ import annotations

from farm.jobs.rates import Rates, start_cost

__all__ = ["Rates", "start_cost", "toll"]

#: While every worker is busy, a choice that fetches an adapter counts the fetch so many times more: it takes the shared
#: network and a place in a full cache, and the copy that is elsewhere was to be found.
FETCH_WEIGHT = 3.0
#: So many times the load of the model that is displaced counts too: somebody has to load it again.
DISPLACE_WEIGHT = 2.0


def toll(rates: Rates, *, displaced: str | None, cold_bytes: int) -> float:
    """What a start takes from others while no worker is idle, in seconds; `displaced`: the model that has to go for it."""
    seconds = FETCH_WEIGHT * cold_bytes / rates.fetch_bytes_per_second
    if displaced is not None:
        seconds += DISPLACE_WEIGHT * rates.model_seconds(displaced)
    return seconds
