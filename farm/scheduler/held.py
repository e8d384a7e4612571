"""Jobs that workers have, as the decision who gives way sees them."""

from __future__ import annotations

from dataclasses import dataclass

from farm.scheduler.group import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A job that a worker has, as far as it may give way."""

    id: str
    attempt: int
    owner_id: str
    #: 0 interactive, 1 normal, 2 bulk
    priority: int
    need: Need
    #: device seconds that it still takes
    left: float
    #: it is in its steps; otherwise it loses nothing
    begun: bool
    #: its worker can save it in the middle
    saves: bool = True
    #: this attempt was asked to give way
    asked: bool = False
    #: seconds since it was last asked; None: never
    rested: float | None = None
