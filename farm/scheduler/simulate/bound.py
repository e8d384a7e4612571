"""What no schedule can beat: a fleet that knows the future and never waits for a cache.

Makespan: no set of workers ends before the last job's submission and sampling, nor sooner than all sampling that is
submitted from some moment on, shared evenly. Hits and bytes: each adapter that occurs has to be fetched once by
somebody. Waits: of a first-come queue on the same workers where every start is free and none fails; that is the floor of
its mean, not of every percentile, since passing over others can lower one percentile and raise another.
"""

from __future__ import annotations

import heapq

import numpy as np

from farm.scheduler.simulate.figures import Figures, figures
from farm.scheduler.simulate.trace import Column, Trace


def bound(trace: Trace, workers: int) -> Figures:
    """The figures of the relaxed fleet."""
    seconds = trace.seconds()
    after = np.cumsum(seconds[::-1])[::-1]
    makespan = max(float((trace.at + seconds).max()), float((trace.at + after / workers).max()))
    once = np.unique(trace.wanted)
    sizes = np.array([size for _, size in trace.adapters], dtype=np.int64)
    return figures(
        trace,
        _first_come(trace.at, seconds, workers),
        hits=len(trace.wanted) - len(once),
        requests=len(trace.wanted),
        makespan=makespan - float(trace.at[0]),
        fetched=int(sizes[once].sum()) if len(once) else 0,
        decisions=0,
        deciding=0.0,
    )


def _first_come(at: Column, seconds: Column, workers: int) -> Column:
    free = [float(at[0])] * workers
    begins = []
    for arrival, work in zip(at.tolist(), seconds.tolist(), strict=True):
        begin = max(arrival, free[0])
        heapq.heapreplace(free, begin + work)
        begins.append(begin)
    return np.array(begins)
