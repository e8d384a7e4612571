"""`farm simulate`: the scheduler on a trace, beside other policies and a bound. Only `--record` needs a farm's database."""

from __future__ import annotations

from collections.abc import Callable
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
#: run only when they are asked for
MORE = ("shortest", "belady")
TRACES = ("mixed", "zipf", "burst")
WORKERS = 10
#: between two lines of progress
SAY_SECONDS = 10.0

PolicyNames = Annotated[
    list[str] | None,
    typer.Option(help=f"One of {', '.join(NAMES + MORE)}; may be repeated. {', '.join(NAMES)} by default."),
]


def simulate(
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help=f"Workers of the fleet; a recorded trace's own, else {WORKERS}."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Jobs of a made trace.")] = 5000,
    trace: Annotated[str, typer.Option(help=f"{', '.join(TRACES)}, or a file of JSON lines.")] = "mixed",
    policy: PolicyNames = None,
    seed: Annotated[int, typer.Option(help="Of the trace and of the random policy.")] = 1,
    load: Annotated[
        float | None,
        typer.Option(min=0.01, help="Of a made trace: sampling asked for, to what the fleet has."),
    ] = None,
    zipf: Annotated[
        float | None, typer.Option(min=0.0, help="Of a made trace: exponent of the adapters' popularity.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison into this SVG file.")] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Write this farm's own jobs and failures into a file for --trace, and end."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the scheduler with first-come, random and a bound, on a made or recorded trace."""
    if record:
        _record(record)
        return
    chosen = policy or list(NAMES)
    known = NAMES + MORE
    if unknown := [name for name in chosen if name not in known]:
        raise BadRequest(f"unknown policy {unknown[0]!r}", f"one of {', '.join(known)}", code="no_policy")
    work, says = _trace(trace, workers or WORKERS, jobs, seed, load, zipf)
    count = workers or work.workers or WORKERS
    if left_out := sum(failure.worker >= count for failure in work.failures):
        typer.echo(f"{left_out} failures are of workers beyond the {count} here, and left out", err=True)
    found = {name: _figures(name, work, count, seed) for name in chosen}
    if plot:
        # numpy comes with the simulator: no other command waits for it
        from farm.scheduler.simulate.plot import draw

        plot.write_text(draw(f"{work.name}, {count} workers, {len(work)} jobs", found), "utf-8")
    if json:
        print_json({"policies": {name: asdict(value) for name, value in found.items()}})
        return
    _print(f"{work.name} ({says}): {len(work)} jobs on {count} workers", found)


def _figures(name: str, work: Trace, workers: int, seed: int) -> Figures:
    from farm.scheduler.simulate.belady import belady
    from farm.scheduler.simulate.bound import bound
    from farm.scheduler.simulate.run import run

    timer, progress = SystemClock().monotonic, _progress(name)
    if name == "bound":
        return bound(work, workers)
    if name == "belady":
        return belady(work, workers, seed, timer, progress)
    return run(work, workers, name, seed, timer, progress=progress)


def _progress(name: str) -> Callable[[int, int], None]:
    """Tells on stderr how far a long run is."""
    clock = SystemClock()
    said = clock.monotonic()

    def tell(done: int, jobs: int) -> None:
        nonlocal said
        if clock.monotonic() - said >= SAY_SECONDS:
            said = clock.monotonic()
            typer.echo(f"{name}: {done} of {jobs} jobs done", err=True)

    return tell


def _trace(
    name: str, workers: int, jobs: int, seed: int, load: float | None, zipf: float | None
) -> tuple[Trace, str]:
    """The trace, and what it is in words."""
    from farm.scheduler.simulate.made import make_trace, recipe_of
    from farm.scheduler.simulate.recorded import read_trace

    path = Path(name)
    if name in TRACES or not path.is_file():
        recipe = recipe_of(name, load=load, zipf=zipf)
        made = make_trace(name, workers=workers, jobs=jobs, seed=seed, load=load, zipf=zipf)
        return made, f"{recipe.says}, Zipf {recipe.zipf:g}, load {recipe.load:g}"
    if load is not None or zipf is not None:
        raise BadRequest(f"{path.name} is recorded: --load and --zipf are for made traces", code="bad_trace")
    with path.open(encoding="utf-8") as lines:
        return read_trace(path.name, lines), "recorded"


def _record(path: Path) -> None:
    from farm.db.engine import make_engine, make_sessions
    from farm.scheduler.simulate.record import record
    from farm.settings import load_settings

    engine = make_engine(load_settings().resolved_database_url())
    lines = 0
    try:
        with make_sessions(engine)() as session, path.open("w", encoding="utf-8") as file:
            for line in record(session, SystemClock().now()):
                file.write(line + "\n")
                lines += 1
    finally:
        engine.dispose()
    say(f"{lines} lines in {path}. Next: farm simulate --trace {path}")


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _print(title: str, found: dict[str, Figures]) -> None:
    say(title)
    rows = [
        (name, f"{value.hit_rate:.1%}", f"{value.makespan_s:.0f} s", _seconds(value.wait_p50_s),
         _seconds(value.wait_p95_s), _seconds(value.wait_p99_s), f"{value.jain:.3f}", size(value.bytes_fetched),
         f"{value.decisions_per_s:.0f}" if value.decisions_per_s else "")
        for name, value in found.items()
    ]  # fmt: skip
    table(
        ("policy", "hits", "makespan", "wait p50", "p95", "p99", "Jain", "fetched", "choices/s"),
        rows,
        empty="No policy was asked for.",
    )
