"""How long things take on a worker: rates that it measured itself, and guesses until it has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from farm.jobs.reports import WorkerReport

#: guesses for a middling disk, network and device
FETCH_BYTES_PER_SECOND = 100e6
LOAD_BYTES_PER_SECOND = 500e6
LOAD_SECONDS = 1.0
ADAPTER_SECONDS = 0.05
STEP_SECONDS = 0.5


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
        seconds = 0.0
        if model_key not in self.report.models:
            known = self.report.load_seconds
            if model_key in known:
                seconds += known[model_key]
            else:
                seconds += LOAD_SECONDS + model_bytes / LOAD_BYTES_PER_SECOND
                seconds += model_bytes / FETCH_BYTES_PER_SECOND
        for sha256, size in networks.items():
            if sha256 not in self.report.adapters:
                seconds += ADAPTER_SECONDS
                if sha256 not in self.report.disk:
                    seconds += size / FETCH_BYTES_PER_SECOND
        return seconds

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
