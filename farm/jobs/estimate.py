"""How long a job takes and when it starts: a pure cost model over rates that workers measured."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from farm.jobs.prepare import Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    #: of rendering, once started
    seconds: float
    #: seconds until it starts; None while no worker is up
    starts_in: float | None
    #: name of the worker that would start it first
    worker: str | None
    #: all of it in words: "1 min 40 s · starts in about 20 s on gpu-2, which holds this model and 2 of 3 adapters"
    sentence: str


def estimate(session: Session, prepared: Prepared, *, jobs: int = 1) -> Estimate:
    """What the fleet, as last reported, would need for `jobs` jobs like this one."""
    raise NotImplementedError
