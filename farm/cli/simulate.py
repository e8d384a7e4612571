"""`farm simulate`: the scheduler on a trace, beside other policies and a bound. Needs no running farm."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farm.cli.output import print_json, say, size, table
from farm.clock import SystemClock
from farm.errors import BadRequest

if TYPE_CHECKING:
    from farm.scheduler.simulate.figures import Figures
    from farm.scheduler.simulate.trace import Trace

NAMES = ("farm", "fifo", "random", "bound")
TRACES = ("mixed", "zipf", "burst")


def simulate(
    workers: Annotated[int, typer.Option(min=1, max=10_000, help="Workers of the fleet.")] = 10,
    jobs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Jobs of a made trace.")] = 5000,
    trace: Annotated[str, typer.Option(help=f"{', '.join(TRACES)}, or a file of JSON lines.")] = "mixed",
    policy: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(NAMES)}; may be repeated. All by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the trace and of the random policy.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison into this SVG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the scheduler with first-come, random and a bound, on a made or recorded trace."""
    # numpy comes with these: no other command waits for it
    from farm.scheduler.simulate.bound import bound
    from farm.scheduler.simulate.plot import draw
    from farm.scheduler.simulate.run import run

    chosen = policy or list(NAMES)
    if unknown := [name for name in chosen if name not in NAMES]:
        raise BadRequest(f"unknown policy {unknown[0]!r}", f"one of {', '.join(NAMES)}", code="no_policy")
    work = _trace(trace, workers, jobs, seed)
    timer = SystemClock().monotonic
    found = {
        name: bound(work, workers) if name == "bound" else run(work, workers, name, seed, timer)
        for name in chosen
    }
    if plot:
        plot.write_text(draw(f"{work.name}, {workers} workers, {len(work.asks)} jobs", found), "utf-8")
    if json:
        print_json({"policies": {name: asdict(value) for name, value in found.items()}})
        return
    _print(work, workers, found)


def _trace(name: str, workers: int, jobs: int, seed: int) -> Trace:
    from farm.scheduler.simulate.trace import make_trace, read_trace

    path = Path(name)
    if name in TRACES or not path.is_file():
        return make_trace(name, workers=workers, jobs=jobs, seed=seed)
    with path.open(encoding="utf-8") as lines:
        return read_trace(path.name, lines)


def _print(work: Trace, workers: int, found: dict[str, Figures]) -> None:
    from farm.scheduler.simulate.trace import RECIPES

    says = RECIPES[work.name].says if work.name in RECIPES else "recorded"
    say(f"{work.name} ({says}): {len(work.asks)} jobs on {workers} workers")
    rows = [
        (name, f"{value.hit_rate:.1%}", f"{value.makespan_s:.0f} s", f"{value.wait_p50_s:.1f} s",
         f"{value.wait_p95_s:.1f} s", f"{value.wait_p99_s:.1f} s", f"{value.jain:.3f}", size(value.bytes_fetched),
         f"{value.decisions_per_s:.0f}" if value.decisions_per_s else "")
        for name, value in found.items()
    ]  # fmt: skip
    table(
        ("policy", "adapter hits", "makespan", "wait p50", "p95", "p99", "Jain", "fetched", "decisions/s"),
        rows,
        empty="No policy was asked for.",
    )
