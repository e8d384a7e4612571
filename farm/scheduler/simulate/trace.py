"""Traces: what is asked of a fleet, by whom, when, and which workers fail. Columns, so that a million jobs stay small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import numpy as np

from farm.scheduler.group import GroupKey, Need

Column = np.ndarray[Any, Any]
#: needs and keys of groups that are kept to be used again by later jobs
_KEPT = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One job of a trace."""

    #: seconds after the trace's begin
    at: float
    key: GroupKey
    steps: int
    #: of sampling, everything else taken out
    seconds: float
    #: to load its model
    load_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKind:
    name: str
    bytes: int
    load_seconds: float
    step_seconds: float
    #: what runs together on it; the model's name where nothing is said
    batch: str = ""
    #: share of the jobs
    share: float = 1.0

    @property
    def batch_key(self) -> str:
        return self.batch or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A worker that loses its process, what it held in memory and what it had been given."""

    at: float
    worker: int
    #: until it is back
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Jobs by time. Rows of the columns are jobs; `wanted[offsets[n]:offsets[n + 1]]` are the adapters of job n."""

    name: str
    kinds: tuple[ModelKind, ...]
    #: (content, bytes)
    adapters: tuple[tuple[str, int], ...]
    owners: tuple[str, ...]
    at: Column
    kind: Column
    offsets: Column
    wanted: Column
    owner: Column
    priority: Column
    steps: Column
    failures: tuple[Failure, ...] = ()
    #: of the fleet that it was recorded on; 0: of none
    workers: int = 0

    def __len__(self) -> int:
        return len(self.at)

    @property
    def asks(self) -> Asks:
        return Asks(self)

    def seconds(self) -> Column:
        """Sampling seconds of each job."""
        rates = np.array([kind.step_seconds for kind in self.kinds])
        return np.asarray(rates[self.kind] * self.steps)

    def load_seconds(self) -> Mapping[str, float]:
        return {kind.name: kind.load_seconds for kind in self.kinds}

    def step_seconds(self) -> Mapping[str, float]:
        return {kind.batch_key: kind.step_seconds for kind in self.kinds}


class Asks(Sequence[Ask]):
    """The jobs of a trace, each made when it is asked for."""

    def __init__(self, trace: Trace):
        self._trace = trace
        self._key = lru_cache(_KEPT)(self._make_key)
        self._need = lru_cache(_KEPT)(self._make_need)

    def __len__(self) -> int:
        return len(self._trace)

    @overload
    def __getitem__(self, number: int) -> Ask: ...
    @overload
    def __getitem__(self, number: slice) -> list[Ask]: ...
    def __getitem__(self, number: int | slice) -> Ask | list[Ask]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        trace = self._trace
        number = range(len(self))[number]
        wanted = trace.wanted[trace.offsets[number] : trace.offsets[number + 1]]
        place, steps = int(trace.kind[number]), int(trace.steps[number])
        key = self._key(place, tuple(wanted.tolist()), int(trace.owner[number]), int(trace.priority[number]))
        kind = trace.kinds[place]
        return Ask(
            at=float(trace.at[number]),
            key=key,
            steps=steps,
            seconds=kind.step_seconds * steps,
            load_seconds=kind.load_seconds,
        )

    def __iter__(self) -> Iterator[Ask]:
        return (self[number] for number in range(len(self)))

    def _make_key(self, place: int, wanted: tuple[int, ...], owner: int, priority: int) -> GroupKey:
        return GroupKey(
            need=self._need(place, wanted),
            batch_key=self._trace.kinds[place].batch_key,
            owner_id=self._trace.owners[owner],
            priority=priority,
        )

    def _make_need(self, place: int, wanted: tuple[int, ...]) -> Need:
        kind = self._trace.kinds[place]
        return Need(
            model_key=kind.name,
            model_bytes=kind.bytes,
            adapters=tuple(sorted(self._trace.adapters[item] for item in wanted)),
        )
