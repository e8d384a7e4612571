"""Traces made from a seed: adapters as popular as Zipf's law says, bursts, several models, failures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from farm.errors import BadRequest
from farm.scheduler.simulate.trace import Column, Failure, ModelKind, Trace

MODELS = (
    ModelKind(name="sd15", bytes=2_000_000_000, load_seconds=2.0, step_seconds=0.1, share=0.5),
    ModelKind(name="sdxl", bytes=7_000_000_000, load_seconds=5.0, step_seconds=0.25, share=0.35),
    ModelKind(name="flux1", bytes=24_000_000_000, load_seconds=12.0, step_seconds=0.5, share=0.15),
)
#: seconds until a failed worker is back
DOWN_SECONDS = 60.0
#: bursts in a trace
BURSTS = 10
#: adapters of a job at most
MOST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a named trace is made."""

    says: str
    #: sampling seconds asked for, to seconds the fleet has
    load: float = 0.9
    #: exponent of the adapters' popularity
    zipf: float = 1.0
    models: tuple[ModelKind, ...] = MODELS
    #: the arrival rate within a burst, to that outside; a tenth of the time is burst
    burst: float = 1.0
    #: failures of a worker in an hour
    failures: float = 0.0
    adapters: int = 1000
    users: int = 20


RECIPES = {
    "mixed": Recipe(says="three models, each worker fails once in two hours", failures=0.5),
    "zipf": Recipe(says="one model", models=MODELS[1:2]),
    "burst": Recipe(says="three models, bursts of eight times the rate", load=0.7, burst=8.0),
}


def recipe_of(name: str, *, load: float | None = None, zipf: float | None = None) -> Recipe:
    """The named recipe, with another load or exponent where one is given.

    Raises:
        BadRequest: no such trace.
    """
    if name not in RECIPES:
        raise BadRequest(
            f"unknown trace {name!r}", f"one of {', '.join(RECIPES)}, or a file", code="no_trace"
        )
    recipe = RECIPES[name]
    return replace(
        recipe, load=recipe.load if load is None else load, zipf=recipe.zipf if zipf is None else zipf
    )


def make_trace(
    name: str, *, workers: int, jobs: int, seed: int, load: float | None = None, zipf: float | None = None
) -> Trace:
    """The named trace for a fleet of this size.

    Raises:
        BadRequest: no such trace.
    """
    recipe = recipe_of(name, load=load, zipf=zipf)
    rng = np.random.default_rng(seed)
    models = recipe.models
    shares = np.array([kind.share for kind in models])
    picked = rng.choice(len(models), size=jobs, p=shares / shares.sum())
    steps = rng.integers(15, 41, size=jobs)
    seconds = np.array([kind.step_seconds for kind in models])[picked] * steps
    at = _arrivals(rng, jobs, recipe.load * workers / float(seconds.mean()), recipe.burst)
    counts = rng.choice(MOST + 1, size=jobs, p=(0.15, 0.5, 0.25, 0.1))
    chosen = _zipf(rng, recipe.adapters, recipe.zipf, (jobs, MOST))
    owner = _zipf(rng, recipe.users, 1.0, (jobs,))
    priority = rng.choice(3, size=jobs, p=(0.2, 0.5, 0.3))
    sizes = rng.integers(20, 300, size=(len(models), recipe.adapters)) * 1_000_000
    offsets, wanted = _rows(chosen, counts, picked * recipe.adapters)
    return Trace(
        name=name,
        kinds=models,
        adapters=tuple(
            (f"{kind.name}/{item}", int(sizes[place, item]))
            for place, kind in enumerate(models)
            for item in range(recipe.adapters)
        ),
        owners=tuple(f"user-{number}" for number in range(recipe.users)),
        at=at,
        kind=picked.astype(np.int16),
        offsets=offsets,
        wanted=wanted,
        owner=owner.astype(np.int32),
        priority=priority.astype(np.int8),
        steps=steps.astype(np.int32),
        failures=_failures(rng, recipe.failures, workers, at),
    )


def _rows(chosen: Column, counts: Column, first: Column) -> tuple[Column, Column]:
    """(offsets, wanted): the first `counts` adapters of each row, each once, numbered from the row's `first`."""
    jobs = len(chosen)
    absent = np.iinfo(chosen.dtype).max
    rows = np.where(np.arange(MOST) < counts[:, None], chosen, absent)
    rows.sort(axis=1)
    keep = rows != absent
    keep[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    offsets = np.zeros(jobs + 1, dtype=np.int64)
    np.cumsum(keep.sum(axis=1), out=offsets[1:])
    return offsets, (rows + first[:, None])[keep].astype(np.int32)


def _arrivals(rng: np.random.Generator, jobs: int, rate: float, burst: float) -> Column:
    """Seconds of a Poisson process; with bursts, ten times over the trace the rate is higher for a tenth of its time."""
    gaps = rng.exponential(1.0, size=jobs)
    clock = np.cumsum(gaps)
    if burst > 1.0:
        # operational time runs `burst` times as fast within bursts; the mean rate stays
        slow = 1.0 / (0.9 + 0.1 * burst)
        period = clock[-1] / BURSTS
        phase, turn = clock % period, clock // period
        inside = 0.1 * burst * slow * period
        seconds = np.where(phase < inside, phase / (burst * slow), 0.1 * period + (phase - inside) / slow)
        clock = turn * period + seconds
    return np.asarray(clock / rate)


def _zipf(rng: np.random.Generator, count: int, exponent: float, shape: tuple[int, ...]) -> Column:
    weights = 1.0 / np.arange(1, count + 1) ** exponent
    return np.asarray(rng.choice(count, size=shape, p=weights / weights.sum()))


def _failures(rng: np.random.Generator, hourly: float, workers: int, at: Column) -> tuple[Failure, ...]:
    end = float(at[-1])
    times = np.sort(rng.uniform(0, end, size=rng.poisson(hourly * workers * end / 3600)))
    return tuple(
        Failure(at=float(time), worker=int(rng.integers(workers)), seconds=DOWN_SECONDS) for time in times
    )
