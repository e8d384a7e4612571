"""Traces as lines of JSON, one object each; `docs/reference/traces.md` has the format. `record` writes them from a farm's tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farm.errors import BadRequest
from farm.jobs.states import PRIORITIES
from farm.scheduler.simulate.made import MODELS
from farm.scheduler.simulate.trace import Failure, ModelKind, Trace

VERSION = 1
#: of what a trace does not tell about a model
UNKNOWN = ModelKind(name="unknown", bytes=7_000_000_000, load_seconds=5.0, step_seconds=0.25)
ADAPTER_BYTES = 100_000_000
_BY_NAME = {kind.name: kind for kind in MODELS}
_EXAMPLE = 'a job is {"at": 1.5, "model": "sdxl", "adapters": ["ink"], "owner": "ann", "steps": 30}'


@dataclass(slots=True)
class _Table:
    """Names in the order in which they came first."""

    places: dict[Any, int] = field(default_factory=dict)

    def place(self, name: Any) -> int:
        return self.places.setdefault(name, len(self.places))


class _Reader:
    def __init__(self) -> None:
        self.workers = 0
        self.failures: list[Failure] = []
        self.told: dict[tuple[str, str], ModelKind] = {}
        self.kinds, self.owners = _Table(), _Table()
        self.adapters: dict[str, tuple[int, int]] = {}
        self.at: list[float] = []
        self.kind: list[int] = []
        self.counts: list[int] = []
        self.wanted: list[int] = []
        self.owner: list[int] = []
        self.priority: list[int] = []
        self.steps: list[int] = []

    def line(self, row: Mapping[str, Any]) -> None:
        what = row.get("kind", "job")
        if what == "job":
            self._job(row)
        elif what == "farm":
            if row["version"] != VERSION:
                raise ValueError(f"version {row['version']} is not {VERSION}, which this farm reads")
            self.workers = int(row["workers"])
        elif what == "model":
            self._model(row)
        elif what == "failure":
            self.failures.append(
                Failure(
                    at=float(row["at"]), worker=int(row["worker"]), seconds=_positive(row, "seconds", 60.0)
                )
            )
        else:
            raise ValueError(f"kind is {what!r}, not one of farm, model, failure, job")

    def _model(self, row: Mapping[str, Any]) -> None:
        name, batch = str(row["model"]), str(row.get("batch", ""))
        like = _BY_NAME.get(name, UNKNOWN)
        self.told[name, batch] = ModelKind(
            name=name,
            batch=batch,
            bytes=int(row.get("bytes", like.bytes)),
            load_seconds=float(row.get("load_seconds", like.load_seconds)),
            step_seconds=_positive(row, "step_seconds", like.step_seconds),
        )

    def _job(self, row: Mapping[str, Any]) -> None:
        found = []
        for item in row.get("adapters", []):
            name, size = (item["name"], item.get("bytes")) if isinstance(item, dict) else (item, None)
            size = ADAPTER_BYTES if size is None else int(size)
            place, known = self.adapters.setdefault(str(name), (len(self.adapters), size))
            if known != size:
                raise ValueError(f"adapter {name!r} has {size} bytes here and {known} above")
            found.append(place)
        at, steps = float(row["at"]), int(_positive(row, "steps", 30))
        if not 0 <= at < float("inf"):
            raise ValueError(f"at is {at}, not seconds from 0 on")
        self.kind.append(self.kinds.place((str(row["model"]), str(row.get("batch", "")))))
        self.priority.append(PRIORITIES[row.get("priority", "normal")])
        self.owner.append(self.owners.place(str(row.get("owner", "one"))))
        self.at.append(at)
        self.steps.append(steps)
        self.counts.append(len(found))
        self.wanted += found

    def trace(self, name: str) -> Trace:
        order = np.argsort(np.array(self.at), kind="stable")
        starts = np.concatenate(([0], np.cumsum(self.counts)))
        wanted = np.array(self.wanted, dtype=np.int32)
        return Trace(
            name=name,
            kinds=tuple(self._kind(model, batch) for model, batch in self.kinds.places),
            adapters=tuple((name, size) for name, (_, size) in self.adapters.items()),
            owners=tuple(self.owners.places),
            at=np.array(self.at)[order],
            kind=np.array(self.kind, dtype=np.int16)[order],
            offsets=np.concatenate(([0], np.cumsum(np.array(self.counts, dtype=np.int64)[order]))),
            wanted=np.concatenate([wanted[starts[job] : starts[job + 1]] for job in order]),
            owner=np.array(self.owner, dtype=np.int32)[order],
            priority=np.array(self.priority, dtype=np.int8)[order],
            steps=np.array(self.steps, dtype=np.int32)[order],
            failures=tuple(sorted(self.failures, key=lambda failure: (failure.at, failure.worker))),
            workers=self.workers,
        )

    def _kind(self, model: str, batch: str) -> ModelKind:
        if (model, batch) in self.told:
            return self.told[model, batch]
        like = self.told.get((model, "")) or _BY_NAME.get(model, UNKNOWN)
        return ModelKind(
            name=model,
            batch=batch,
            bytes=like.bytes,
            load_seconds=like.load_seconds,
            step_seconds=like.step_seconds,
        )


def _positive(row: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = float(row.get(name, otherwise))
    if not value > 0:
        raise ValueError(f"{name} is {row[name]}, not above 0")
    return value


def read_trace(name: str, lines: Iterable[str]) -> Trace:
    """The trace in `lines`, one JSON object each.

    Raises:
        BadRequest: a line that is none; the sentence names it.
    """
    reader = _Reader()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                reader.line(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                said = f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
                raise BadRequest(
                    f"line {number} of the trace {name} is not a job, a model or a failure: {said}",
                    _EXAMPLE,
                    code="bad_trace",
                ) from error
    if not reader.at:
        raise BadRequest(f"the trace {name} has no jobs", code="bad_trace")
    return reader.trace(name)


def farm_line(workers: int) -> str:
    return _line({"kind": "farm", "version": VERSION, "workers": workers})


def model_line(
    name: str, batch: str, *, size: int, load_seconds: float | None, step_seconds: float | None
) -> str:
    """`None` where the farm has not measured yet."""
    row = {"kind": "model", "model": name, "batch": batch, "bytes": size, "load_seconds": load_seconds,
           "step_seconds": step_seconds}  # fmt: skip
    return _line({key: value for key, value in row.items() if value not in (None, "")})


def failure_line(at: float, worker: int, seconds: float) -> str:
    return _line({"kind": "failure", "at": round(at, 3), "worker": worker, "seconds": round(seconds, 3)})


def job_line(
    at: float,
    model: str,
    batch: str,
    adapters: Sequence[tuple[str, int]],
    owner: str,
    steps: int,
    priority: str,
) -> str:
    row = {
        "at": round(at, 3), "model": model, "batch": batch, "owner": owner, "steps": steps, "priority": priority,
        "adapters": [{"name": name, "bytes": size} for name, size in adapters],
    }  # fmt: skip
    return _line({key: value for key, value in row.items() if value not in ("", [])})


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row)
