"""Traces: what is asked of a fleet, by whom, when. Made from a seed, or read from lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from farm.errors import BadRequest
from farm.jobs.states import PRIORITIES
from farm.scheduler.group import GroupKey, Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One job of a trace."""

    #: seconds after the trace's begin
    at: float
    key: GroupKey
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKind:
    name: str
    bytes: int
    load_seconds: float
    step_seconds: float
    #: share of the jobs
    share: float = 1.0


MODELS = (
    ModelKind(name="sd15", bytes=2_000_000_000, load_seconds=2.0, step_seconds=0.1, share=0.5),
    ModelKind(name="sdxl", bytes=7_000_000_000, load_seconds=5.0, step_seconds=0.25, share=0.35),
    ModelKind(name="flux1", bytes=24_000_000_000, load_seconds=12.0, step_seconds=0.5, share=0.15),
)
#: of a recorded trace's models that are not in the table
UNKNOWN = ModelKind(name="unknown", bytes=7_000_000_000, load_seconds=5.0, step_seconds=0.25)
BY_NAME = {kind.name: kind for kind in MODELS}
ADAPTER_BYTES = 100_000_000


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
    "mixed": Recipe(
        says="three models, Zipf 1.0, load 0.9, each worker fails once in two hours", failures=0.5
    ),
    "zipf": Recipe(says="one model, Zipf 1.0, load 0.9", models=MODELS[1:2]),
    "burst": Recipe(
        says="three models, Zipf 1.0, load 0.7 with bursts of eight times the rate", load=0.7, burst=8.0
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    name: str
    #: by time
    asks: tuple[Ask, ...]
    #: (seconds, number of the worker), by time
    failures: tuple[tuple[float, int], ...] = ()


def make_trace(name: str, *, workers: int, jobs: int, seed: int) -> Trace:
    """The named trace for a fleet of this size.

    Raises:
        BadRequest: no such trace.
    """
    if name not in RECIPES:
        raise BadRequest(
            f"unknown trace {name!r}", f"one of {', '.join(RECIPES)}, or a file", code="no_trace"
        )
    recipe = RECIPES[name]
    rng = np.random.default_rng(seed)
    shares = np.array([kind.share for kind in recipe.models])
    picked = rng.choice(len(recipe.models), size=jobs, p=shares / shares.sum())
    steps = rng.integers(15, 41, size=jobs)
    seconds = np.array([kind.step_seconds for kind in recipe.models])[picked] * steps
    at = _arrivals(rng, jobs, recipe.load * workers / float(seconds.mean()), recipe.burst)
    wanted = rng.choice(4, size=jobs, p=(0.15, 0.5, 0.25, 0.1))
    adapters = _zipf(rng, recipe.adapters, recipe.zipf, (jobs, 3))
    owners = _zipf(rng, recipe.users, 1.0, (jobs,))
    priorities = rng.choice(3, size=jobs, p=(0.2, 0.5, 0.3))
    sizes = rng.integers(20, 300, size=(len(recipe.models), recipe.adapters)) * 1_000_000
    needs: dict[tuple[int, tuple[int, ...]], Need] = {}
    asks = []
    for number in range(jobs):
        model = int(picked[number])
        chosen = tuple(sorted({int(item) for item in adapters[number, : wanted[number]]}))
        need = needs.get((model, chosen))
        if need is None:
            kind = recipe.models[model]
            need = needs[model, chosen] = Need(
                model_key=kind.name,
                model_bytes=kind.bytes,
                adapters=tuple((f"{kind.name}/{item}", int(sizes[model, item])) for item in chosen),
            )
        key = GroupKey(
            need=need,
            batch_key=need.model_key,
            owner_id=f"user-{owners[number]}",
            priority=int(priorities[number]),
        )
        asks.append(Ask(at=float(at[number]), key=key, steps=int(steps[number])))
    return Trace(name=name, asks=tuple(asks), failures=_failures(rng, recipe.failures, workers, at))


def read_trace(name: str, lines: Iterable[str]) -> Trace:
    """A recorded trace: one JSON object a line, `{"at": seconds, "model", "adapters": [name…], "owner", "steps",
    "priority"}`; all but `at` and `model` may be left out, adapters may be `{"name", "bytes"}`.

    Raises:
        BadRequest: a line that is none; the sentence names it.
    """
    asks = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                asks.append(_ask(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadRequest(
                    f"line {number} of the trace {name} is not a job: {error}",
                    'a line is {"at": 1.5, "model": "sdxl", "adapters": ["ink"], "owner": "ann", "steps": 30}',
                    code="bad_trace",
                ) from error
    if not asks:
        raise BadRequest(f"the trace {name} has no jobs", code="bad_trace")
    return Trace(name=name, asks=tuple(sorted(asks, key=lambda ask: ask.at)))


def _ask(row: dict[str, Any]) -> Ask:
    kind = BY_NAME.get(row["model"], UNKNOWN)
    adapters = [item if isinstance(item, dict) else {"name": item} for item in row.get("adapters", [])]
    need = Need(
        model_key=str(row["model"]),
        model_bytes=kind.bytes,
        adapters=tuple(
            sorted((str(item["name"]), int(item.get("bytes", ADAPTER_BYTES))) for item in adapters)
        ),
    )
    owner, priority = str(row.get("owner", "one")), PRIORITIES[row.get("priority", "normal")]
    key = GroupKey(need=need, batch_key=need.model_key, owner_id=owner, priority=priority)
    return Ask(at=float(row["at"]), key=key, steps=int(row.get("steps", 30)))


def _arrivals(rng: np.random.Generator, jobs: int, rate: float, burst: float) -> np.ndarray[Any, Any]:
    """Seconds of a Poisson process; with bursts, ten times over the trace the rate is higher for a tenth of its time."""
    gaps = rng.exponential(1.0, size=jobs)
    clock = np.cumsum(gaps)
    if burst > 1.0:
        # operational time runs `burst` times as fast within bursts; the mean rate stays
        slow = 1.0 / (0.9 + 0.1 * burst)
        period = clock[-1] / 10
        phase, turn = clock % period, clock // period
        inside = 0.1 * burst * slow * period
        seconds = np.where(phase < inside, phase / (burst * slow), 0.1 * period + (phase - inside) / slow)
        clock = turn * period + seconds
    return np.asarray(clock / rate)


def _zipf(
    rng: np.random.Generator, count: int, exponent: float, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    weights = 1.0 / np.arange(1, count + 1) ** exponent
    return np.asarray(rng.choice(count, size=shape, p=weights / weights.sum()))


def _failures(
    rng: np.random.Generator, hourly: float, workers: int, at: np.ndarray[Any, Any]
) -> tuple[tuple[float, int], ...]:
    end = float(at[-1])
    times = np.sort(rng.uniform(0, end, size=rng.poisson(hourly * workers * end / 3600)))
    return tuple((float(time), int(rng.integers(workers))) for time in times)
