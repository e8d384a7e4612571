"""What a policy is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farm.scheduler.simulate.trace import Column, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Seconds are simulated ones, but for `decisions_per_s`."""

    #: adapters found in memory, of all that jobs asked for
    hit_rate: float
    #: from the first submission to the last picture
    makespan_s: float
    #: from submission to the first step
    wait_p50_s: float
    wait_p95_s: float
    wait_p99_s: float
    #: Jain's index of the users' mean speed, alone time to time in the farm: 1 when all are slowed alike
    jain: float
    bytes_fetched: int
    #: assignments by seconds of this machine spent deciding
    decisions_per_s: float


def figures(
    trace: Trace,
    begins: Column,
    *,
    hits: int,
    requests: int,
    makespan: float,
    fetched: int,
    decisions: int,
    deciding: float,
) -> Figures:
    """Of a finished run; `begins`: when the sampling of each job began, the last time it did."""
    waits = begins - trace.at
    p50, p95, p99 = (float(value) for value in np.percentile(waits, (50, 95, 99)))
    return Figures(
        hit_rate=hits / requests if requests else 1.0,
        makespan_s=makespan,
        wait_p50_s=p50,
        wait_p95_s=p95,
        wait_p99_s=p99,
        jain=_jain(trace, waits),
        bytes_fetched=fetched,
        decisions_per_s=decisions / deciding if deciding > 0 else 0.0,
    )


def _jain(trace: Trace, waits: Column) -> float:
    """Jain, Chiu and Hawe 1984: (sum x)^2 / (n sum x^2)."""
    alone = trace.seconds()
    jobs = np.bincount(trace.owner)
    means = np.bincount(trace.owner, weights=alone / (alone + waits))[jobs > 0] / jobs[jobs > 0]
    return float(means.sum() ** 2 / (len(means) * (means**2).sum()))
