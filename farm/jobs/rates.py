"""How long things take on a worker: rates that it measured itself, and guesses until it has.

The plan and the estimate before submission both reckon with these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from farm.jobs import pins
from farm.jobs.reports import WorkerReport

#: guesses for a middling disk, network and device
FETCH_BYTES_PER_SECOND = 100e6
LOAD_BYTES_PER_SECOND = 500e6
LOAD_SECONDS = 1.0
ADAPTER_SECONDS = 0.05
STEP_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Measured on one worker; guesses for a middling disk, network and device until it has measured."""

    #: by batch key
    seconds_per_step: Mapping[str, float] = field(default_factory=dict)
    #: by model key
    load_seconds: Mapping[str, float] = field(default_factory=dict)
    fetch_bytes_per_second: float = FETCH_BYTES_PER_SECOND
    #: to parse and patch one adapter that is on disk
    adapter_seconds: float = ADAPTER_SECONDS

    @classmethod
    def of(cls, report: WorkerReport) -> Rates:
        """What a worker reports of itself, with guesses for the rest."""
        fetch, adapter = report.fetch_bytes_per_second, report.adapter_seconds
        return cls(
            seconds_per_step=report.seconds_per_step,
            load_seconds=report.load_seconds,
            fetch_bytes_per_second=FETCH_BYTES_PER_SECOND if fetch is None else max(1.0, fetch),
            adapter_seconds=ADAPTER_SECONDS if adapter is None else adapter,
        )

    def step_seconds(self, batch_key: str) -> float:
        """Seconds of one step; for an unknown key the mean of the known ones, or a guess."""
        return step_seconds(self.seconds_per_step, batch_key)

    def model_seconds(self, model_key: str, model_bytes: int = 0) -> float:
        """Seconds to load a model from disk; for an unknown one the mean of the known ones, or a guess."""
        known = self.load_seconds
        if model_key in known:
            return known[model_key]
        if known:
            return sum(known.values()) / len(known)
        return LOAD_SECONDS + model_bytes / LOAD_BYTES_PER_SECOND

    def job_seconds(self, batch_key: str, steps: int, count: int) -> float:
        return self.step_seconds(batch_key) * steps * count


def start_cost(
    rates: Rates, *, model_key: str, model_hot: bool, model_bytes: int, cold_bytes: int, cold_adapters: int
) -> float:
    """Seconds between "the device is free" and the first step.

    `model_bytes` and `cold_bytes` are what is not on the worker's disk yet.
    """
    seconds = cold_bytes / rates.fetch_bytes_per_second + cold_adapters * rates.adapter_seconds
    if not model_hot:
        seconds += rates.model_seconds(model_key, model_bytes) + model_bytes / rates.fetch_bytes_per_second
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One worker as it last reported, and the seconds of work that it has been given."""

    name: str
    report: WorkerReport
    busy_seconds: float = 0.0

    def step_seconds(self, batch_key: str) -> float:
        """Seconds of one step of one picture; for an unknown key the mean of the known ones, or a guess."""
        return step_seconds(self.report.seconds_per_step, batch_key)

    def start_seconds(self, model_key: str, model_bytes: int, networks: Mapping[str, int]) -> float:
        """Seconds from a free device to the first step. `networks`: bytes by sha256."""
        disk = frozenset(self.report.disk)
        cold = [sha256 for sha256 in networks if sha256 not in self.report.adapters]
        return start_cost(
            Rates.of(self.report),
            model_key=model_key,
            model_hot=model_key in self.report.models,
            model_bytes=0 if model_key in disk else model_bytes,
            cold_bytes=sum(networks[sha256] for sha256 in cold if sha256 not in disk),
            cold_adapters=len(cold),
        )

    def meets(self, memory_bytes: int, tags: Collection[str]) -> bool:
        """Whether it meets a job's pins."""
        return pins.met(memory_bytes, tags, has_memory=self.report.memory_total, has_tags=self.report.tags)

    def hot(self, networks: Collection[str]) -> int:
        """How many of these adapters it has in memory."""
        return len(set(networks) & set(self.report.adapters))


def step_seconds(known: Mapping[str, float], batch_key: str) -> float:
    """Seconds of one step by `known` rates.

    >>> step_seconds({"a": 0.2, "b": 0.4}, "a"), step_seconds({}, "a")
    (0.2, 0.5)
    """
    if batch_key in known:
        return known[batch_key]
    return sum(known.values()) / len(known) if known else STEP_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Open jobs of one batch key."""

    batch_key: str
    #: denoising steps of all their pictures
    steps: int


def fleet_seconds(lanes: Collection[Lane], work: Collection[Work]) -> float:
    """Seconds until the whole fleet has done `work`, by the mean of its rates."""
    if not lanes:
        return 0.0
    known: dict[str, float] = {}
    for lane in lanes:
        known.update(lane.report.seconds_per_step)
    return sum(step_seconds(known, item.batch_key) * item.steps for item in work) / len(lanes)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.4), duration(20.4), duration(100), duration(7300)
    ('1 s', '20 s', '1 min 40 s', '2 h 1 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 5 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
