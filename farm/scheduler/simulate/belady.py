"""How many adapters caches that know the future would have held, each worker being given what the farm's plan gave it.

Belady 1966: what is used again latest goes first; no other rule has fewer misses. So the distance to it is what a better
rule of eviction could still win; the rest of the way to the bound is a matter of who gets what.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace

from farm.scheduler.simulate.figures import Figures
from farm.scheduler.simulate.run import Progress, run
from farm.scheduler.simulate.trace import Trace
from farm.scheduler.simulate.world import DISK, MEMORY


def belady(
    trace: Trace, workers: int, seed: int, timer: Callable[[], float], progress: Progress | None = None
) -> Figures:
    """The farm's figures, with hits and bytes of caches that know the future; failures empty none."""
    return with_foresight(trace, workers, seed, timer, progress)[1]


def with_foresight(
    trace: Trace, workers: int, seed: int, timer: Callable[[], float], progress: Progress | None = None
) -> tuple[Figures, Figures]:
    """The farm's own figures, and those of `belady`, from one run."""
    done: list[list[int]] = [[] for _ in range(workers)]
    found = run(
        trace,
        workers,
        "farm",
        seed,
        timer,
        note=lambda job, where, *_: done[where].append(job),
        progress=progress,
    )
    missed = fetched = 0
    for jobs in done:
        asked = [
            item
            for job in jobs
            for item in trace.wanted[trace.offsets[job] : trace.offsets[job + 1]].tolist()
        ]
        missed += len(misses(asked, MEMORY))
        fetched += sum(trace.adapters[item][1] for item in misses(asked, DISK))
    asked_for = len(trace.wanted)
    best = replace(found, hit_rate=1 - missed / asked_for if asked_for else 1.0, bytes_fetched=fetched)
    return found, best


def misses(asked: Sequence[int], room: int) -> list[int]:
    """What is not there when it is asked for, with the best of evictions from a cache of `room` items.

    >>> misses([1, 2, 3, 1, 2], 2)
    [1, 2, 3, 2]
    """
    never = len(asked)
    upcoming = [never] * len(asked)
    seen: dict[int, int] = {}
    for place in reversed(range(len(asked))):
        upcoming[place] = seen.get(asked[place], never)
        seen[asked[place]] = place
    held: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    missed = []
    for place, item in enumerate(asked):
        if item not in held:
            missed.append(item)
            if len(held) >= room:
                # entries of the heap that speak of an earlier use are out of date
                while held.get(latest[0][1]) != -latest[0][0]:
                    heapq.heappop(latest)
                del held[heapq.heappop(latest)[1]]
        held[item] = upcoming[place]
        heapq.heappush(latest, (-upcoming[place], item))
    return missed
