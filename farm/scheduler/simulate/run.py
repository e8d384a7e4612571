"""The event loop: submissions, ends and failures on a heap; after each batch of them, one round of the policy."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from farm.scheduler.simulate.figures import Figures, figures
from farm.scheduler.simulate.policies import POLICIES
from farm.scheduler.simulate.trace import Trace
from farm.scheduler.simulate.world import SimWorker

#: Events within this time go into one round; a large fleet has the production's longest pause.
TICK_SECONDS = 0.1
LARGE_TICK_SECONDS = 1.0
LARGE_FLEET = 500
#: A failed worker is back after this; what it had waits for the lease's end.
DOWN_SECONDS = 60.0
LEASE_SECONDS = 30.0

_END, _FAIL, _ASK, _BACK = range(4)


def run(trace: Trace, workers: int, policy: str, seed: int, timer: Callable[[], float]) -> Figures:
    """Figures of one policy on one trace. `timer` counts this machine's seconds, for `decisions_per_s` alone."""
    chooser = POLICIES[policy](seed)
    fleet = [SimWorker(number) for number in range(workers)]
    asks = trace.asks
    begins = [0.0] * len(asks)
    ends = [0.0] * len(asks)
    #: (time, kind, job or worker, worker, epoch); submissions come from the trace itself
    events: list[tuple[float, int, int, int, int]] = [
        (at, _FAIL, number, 0, 0) for at, number in trace.failures
    ]
    heapq.heapify(events)
    tick = LARGE_TICK_SECONDS if workers > LARGE_FLEET else TICK_SECONDS
    asked, done, decisions, deciding = 0, 0, 0, 0.0
    now = asks[0].at
    while done < len(asks):
        upcoming = [events[0][0]] if events else []
        if asked < len(asks):
            upcoming.append(asks[asked].at)
        now = max(now, min(upcoming)) + tick
        while asked < len(asks) and asks[asked].at <= now:
            chooser.add(asked, asks[asked])
            asked += 1
        while events and events[0][0] <= now:
            at, kind, number, where, epoch = heapq.heappop(events)
            if kind == _END and fleet[where].epoch == epoch:
                del fleet[where].open[number]
                ends[number] = at
                done += 1
            elif kind == _FAIL:
                for job in fleet[number].fail(at, DOWN_SECONDS):
                    heapq.heappush(events, (at + LEASE_SECONDS, _ASK, job, 0, 0))
                heapq.heappush(events, (at + DOWN_SECONDS, _BACK, number, 0, 0))
            elif kind == _ASK:
                chooser.add(number, asks[number])
        began = timer()
        given = chooser.give(fleet, now)
        deciding += timer() - began
        decisions += len(given)
        for number, where in given:
            worker = fleet[where]
            begins[number], end = worker.give(number, asks[number], now)
            heapq.heappush(events, (end, _END, number, where, worker.epoch))
    return figures(
        asks,
        begins,
        hits=sum(worker.hits for worker in fleet),
        requests=sum(worker.requests for worker in fleet),
        makespan=max(ends) - asks[0].at,
        fetched=sum(worker.bytes for worker in fleet),
        decisions=decisions,
        deciding=deciding,
    )
