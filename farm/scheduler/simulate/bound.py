"""What no schedule can beat: a fleet that knows the future and never waits for a cache.

Makespan: no set of workers ends before the last job's submission and sampling, nor sooner than all sampling that is
submitted from some moment on, shared evenly. Hits and bytes: each adapter that occurs has to be fetched once by
somebody. Waits: of a first-come queue on the same workers where every start is free and none fails; that is the floor of
its mean, not of every percentile, since passing over others can lower one percentile and raise another.
"""

from __future__ import annotations

import heapq

from farm.scheduler.simulate.figures import Figures, figures
from farm.scheduler.simulate.trace import Trace
from farm.scheduler.simulate.world import sampling_seconds


def bound(trace: Trace, workers: int) -> Figures:
    """The figures of the relaxed fleet."""
    first = trace.asks[0].at
    makespan, after = 0.0, 0.0
    for ask in reversed(trace.asks):
        seconds = sampling_seconds(ask)
        after += seconds
        makespan = max(makespan, ask.at + seconds, ask.at + after / workers)
    free = [first] * workers
    begins = []
    for ask in trace.asks:
        begin = max(ask.at, free[0])
        heapq.heapreplace(free, begin + sampling_seconds(ask))
        begins.append(begin)
    sizes = {sha: size for ask in trace.asks for sha, size in ask.key.need.adapters}
    requests = sum(len(ask.key.need.adapters) for ask in trace.asks)
    return figures(
        trace.asks,
        begins,
        hits=requests - len(sizes),
        requests=requests,
        makespan=makespan - first,
        fetched=sum(sizes.values()),
        decisions=0,
        deciding=0.0,
    )
