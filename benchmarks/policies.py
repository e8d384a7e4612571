"""The plan against other policies in the simulator: three traces, 10 to 10,000 workers, several seeds; and other loads and
exponents of popularity at 100 workers. Peers in the same run, on the same traces: first-come, shortest job first, random, caches
that know the future, and the bound.

Prints tables of means over the seeds, with the least and the most in brackets: ratios to first-come, so that traces and sizes
can be compared. `--quick` stops at 100 workers.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from farm.scheduler.simulate.belady import with_foresight
from farm.scheduler.simulate.bound import bound
from farm.scheduler.simulate.figures import Figures
from farm.scheduler.simulate.made import make_trace
from farm.scheduler.simulate.run import run

#: (workers, jobs, seeds)
SIZES = ((10, 2_000, 3), (100, 5_000, 3), (1_000, 20_000, 2), (10_000, 60_000, 1))
TRACES = ("mixed", "zipf", "burst")
POLICIES = ("farm", "fifo", "shortest", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    trace: str
    workers: int
    jobs: int
    load: float | None = None
    zipf: float | None = None

    def label(self) -> str:
        more = [f"{name} {value:g}" for name, value in (("load", self.load), ("Zipf", self.zipf)) if value]
        return ", ".join([self.trace, *more])


def cases(*, quick: bool) -> Iterator[tuple[Case, int]]:
    """Each with its number of seeds."""
    for workers, jobs, seeds in SIZES[: 2 if quick else None]:
        for trace in TRACES:
            yield Case(trace=trace, workers=workers, jobs=jobs), seeds
    if not quick:
        for load in (0.7, 0.8):
            yield Case(trace="mixed", workers=100, jobs=5_000, load=load), 2
        for zipf in (0.8, 1.2):
            yield Case(trace="mixed", workers=100, jobs=5_000, zipf=zipf), 2


def measure(case: Case, seed: int) -> tuple[dict[str, Figures], float]:
    """Figures by policy, and seconds of this machine for each job of the farm's run."""
    trace = make_trace(
        case.trace, workers=case.workers, jobs=case.jobs, seed=seed, load=case.load, zipf=case.zipf
    )
    found = {}
    began = time.process_time()
    found["farm"], found["belady"] = with_foresight(trace, case.workers, seed, time.process_time)
    spent = time.process_time() - began
    for name in POLICIES[1:]:
        found[name] = run(trace, case.workers, name, seed, time.process_time)
    found["bound"] = bound(trace, case.workers)
    return found, spent / case.jobs


def spread(values: list[float], form: str) -> str:
    """`mean (least to most)`; the mean alone where they are one.

    >>> spread([1.0, 2.0], "{:.1f}"), spread([1.0], "{:.1f}")
    ('1.5 (1.0 to 2.0)', '1.0')
    """
    mean = form.format(sum(values) / len(values))
    if len(values) == 1:
        return mean
    return f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


#: column: (figure, how it is printed, whether it is a ratio to first-come)
COLUMNS: tuple[tuple[str, Callable[[Figures], float], str, bool], ...] = (
    ("found in memory", lambda item: 100 * item.hit_rate, "{:.1f} %", False),
    ("makespan / FIFO", lambda item: item.makespan_s, "{:.2f}", True),
    ("wait p50", lambda item: item.wait_p50_s, "{:.1f} s", False),
    ("p95 / FIFO", lambda item: item.wait_p95_s, "{:.2f}", True),
    ("p99 / FIFO", lambda item: item.wait_p99_s, "{:.2f}", True),
    ("Jain", lambda item: item.jain, "{:.3f}", False),
    ("bytes / FIFO", lambda item: float(item.bytes_fetched), "{:.2f}", True),
)


def rows_of(case: Case, runs: Sequence[Mapping[str, Figures]]) -> Iterator[str]:
    for name in runs[0]:
        cells = []
        for _, value, form, is_ratio in COLUMNS:
            values = [
                value(found[name]) / (max(1e-9, value(found["fifo"])) if is_ratio else 1.0) for found in runs
            ]
            cells.append(spread(values, form))
        yield f"| {case.label()} | {case.workers} | {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables and, last, one line of JSON."""
    print("| trace | workers | policy | " + " | ".join(name for name, *_ in COLUMNS) + " |")
    print("| --- " * (3 + len(COLUMNS)) + "|")
    kept: list[dict[str, Any]] = []
    for case, seeds in cases(quick="--quick" in sys.argv[1:]):
        runs, costs = [], []
        for seed in range(1, seeds + 1):
            found, cost = measure(case, seed)
            runs.append(found)
            costs.append(cost)
        for line in rows_of(case, runs):
            print(line, flush=True)
        kept.append(
            {**asdict(case), "cpu_seconds_per_job": sum(costs) / len(costs),
             "runs": [{name: asdict(item) for name, item in found.items()} for found in runs]}
        )  # fmt: skip
    print(json.dumps(kept))


if __name__ == "__main__":
    main()
