"""The event loop: submissions, ends and failures on a heap; after each batch of them, one round of the policy."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from farm.scheduler.simulate.figures import Figures, figures
from farm.scheduler.simulate.policies import POLICIES
from farm.scheduler.simulate.trace import Trace
from farm.scheduler.simulate.world import SimFleet

#: Events within this time go into one round; a large fleet has the production's longest pause.
TICK_SECONDS = 0.1
LARGE_TICK_SECONDS = 1.0
LARGE_FLEET = 500
#: What a failed worker had waits for the lease's end.
LEASE_SECONDS = 30.0

_END, _FAIL, _ASK, _BACK = range(4)

#: (job, worker, begin, end) of each job that has ended
Note = Callable[[int, int, float, float], None]
#: (jobs that have ended, jobs)
Progress = Callable[[int, int], None]


def run(
    trace: Trace,
    workers: int,
    policy: str,
    seed: int,
    timer: Callable[[], float],
    *,
    note: Note | None = None,
    progress: Progress | None = None,
) -> Figures:
    """Figures of one policy on one trace. `timer` counts this machine's seconds, for `decisions_per_s` alone."""
    chooser, fleet = POLICIES[policy](seed), SimFleet(trace, workers)
    asks, arrivals, jobs = trace.asks, trace.at.tolist(), len(trace)
    begins = np.zeros(jobs)
    #: (time, kind, job or worker, worker, epoch); submissions come from the trace itself
    events: list[tuple[float, int, int, int, int]] = [
        (failure.at, _FAIL, place, 0, 0)
        for place, failure in enumerate(trace.failures)
        if failure.worker < workers
    ]
    heapq.heapify(events)
    tick = LARGE_TICK_SECONDS if workers > LARGE_FLEET else TICK_SECONDS
    asked, done, decisions, deciding = 0, 0, 0, 0.0
    now = last = arrivals[0]
    while done < jobs:
        upcoming = [events[0][0]] if events else []
        if asked < jobs:
            upcoming.append(arrivals[asked])
        now = max(now, min(upcoming)) + tick
        while asked < jobs and arrivals[asked] <= now:
            chooser.add(asked, asks[asked])
            asked += 1
        while events and events[0][0] <= now:
            at, kind, number, where, epoch = heapq.heappop(events)
            if kind == _END and fleet.workers[where].epoch == epoch:
                begin = fleet.end(where, number)
                begins[number], last = begin, max(last, at)
                done += 1
                if note:
                    note(number, where, begin, at)
            elif kind == _FAIL:
                failure = trace.failures[number]
                for job in fleet.fail(failure.worker, at, failure.seconds):
                    heapq.heappush(events, (at + LEASE_SECONDS, _ASK, job, 0, 0))
                heapq.heappush(events, (at + failure.seconds, _BACK, failure.worker, 0, 0))
            elif kind == _BACK:
                fleet.back(number, at)
            elif kind == _ASK:
                chooser.add(number, asks[number])
        began = timer()
        given = chooser.give(fleet, now)
        deciding += timer() - began
        decisions += len(given)
        for number, where in given:
            end = fleet.give(where, number, asks[number], now)
            heapq.heappush(events, (end, _END, number, where, fleet.workers[where].epoch))
        if progress:
            progress(done, jobs)
    return figures(
        trace,
        begins,
        hits=sum(worker.hits for worker in fleet.workers),
        requests=sum(worker.requests for worker in fleet.workers),
        makespan=last - arrivals[0],
        fetched=sum(worker.bytes for worker in fleet.workers),
        decisions=decisions,
        deciding=deciding,
    )
