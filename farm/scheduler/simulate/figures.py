"""What a policy is judged by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from farm.scheduler.simulate.trace import Ask
from farm.scheduler.simulate.world import sampling_seconds


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
    asks: Sequence[Ask],
    begins: Sequence[float],
    *,
    hits: int,
    requests: int,
    makespan: float,
    fetched: int,
    decisions: int,
    deciding: float,
) -> Figures:
    """Of a finished run; `begins`: when the sampling of each job began, the last time it did."""
    waits = np.array([begin - ask.at for ask, begin in zip(asks, begins, strict=True)])
    p50, p95, p99 = (float(value) for value in np.percentile(waits, (50, 95, 99)))
    return Figures(
        hit_rate=hits / requests if requests else 1.0,
        makespan_s=makespan,
        wait_p50_s=p50,
        wait_p95_s=p95,
        wait_p99_s=p99,
        jain=_jain(asks, waits.tolist()),
        bytes_fetched=fetched,
        decisions_per_s=decisions / deciding if deciding > 0 else 0.0,
    )


def _jain(asks: Sequence[Ask], waits: Sequence[float]) -> float:
    """Jain, Chiu and Hawe 1984: (sum x)^2 / (n sum x^2)."""
    speeds: dict[str, list[float]] = defaultdict(list)
    for ask, wait in zip(asks, waits, strict=True):
        alone = sampling_seconds(ask)
        speeds[ask.key.owner_id].append(alone / (alone + wait))
    means = [sum(values) / len(values) for values in speeds.values()]
    return sum(means) ** 2 / (len(means) * sum(value * value for value in means))
