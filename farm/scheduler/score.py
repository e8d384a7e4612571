"""Seconds to start a job on a worker; the same numbers that an estimate before submission goes by."""

from __future__ import annotations

from farm.jobs.rates import Rates, start_cost

__all__ = ["Rates", "start_cost"]
