"""What the leader foresaw in its last round: the front of the queue in the order of expected starts, and its pace beyond.

One row instead of a note on every job: a round that moved each waiting job by one place would else rewrite all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from farm.db.models import Forecast as Row
from farm.db.rows import changed
from farm.jobs.guesses import GUESSED, Bar

_ID = 1
_LAST = 1e12
#: a leader that has written nothing for so long is none
STALE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A waiting job that the leader sees."""

    job_id: str
    owner_id: str
    priority: int
    #: from `Forecast.at` on
    seconds: float
    #: "gpu-2 is free in about 20 s and has everything hot"
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    at: datetime
    #: soonest first
    starts: tuple[Start, ...] = ()
    #: jobs that the leader sees and that are held back, with the reason
    held: Mapping[str, str] = field(default_factory=dict)
    #: users who have as many jobs on workers as they may, with the seconds between their starts
    limited: Mapping[str, float] = field(default_factory=dict)
    #: weights in fair sharing, of those who have another than 1
    weights: Mapping[str, float] = field(default_factory=dict)
    workers: int = 0
    #: why no worker takes jobs, where that is known
    nobody: str = ""
    #: seconds until the first worker is free, and between two starts
    free_in: float = 0.0
    pace: float = 0.0
    #: how sure that is
    bars: tuple[Bar, ...] = GUESSED
    #: seconds since it was written, by the database's clock
    age: float = 0.0

    @property
    def now(self) -> datetime:
        """The present moment by the leader's clock."""
        return self.at + timedelta(seconds=self.age)

    @property
    def stale(self) -> bool:
        return self.age > STALE_SECONDS


def write(session: Session, forecast: Forecast) -> None:
    """Put it in the place of the one before."""
    values = {"at": forecast.at, "written_at": func.current_timestamp(), "foreseen": _packed(forecast)}
    done = session.execute(
        update(Row).where(Row.id == _ID).values(values), execution_options={"synchronize_session": False}
    )
    if not changed(done):
        session.execute(insert(Row).values(id=_ID, **values))


def read(session: Session) -> Forecast | None:
    """The latest; None when no scheduler has ever led."""
    now = func.current_timestamp(type_=Row.written_at.type).label("now")
    row = session.execute(
        select(Row.at, Row.written_at, Row.foreseen, now).where(Row.id == _ID)
    ).one_or_none()
    if row is None:
        return None
    return _unpacked(row.at, row.foreseen, max(0.0, (row.now - row.written_at).total_seconds()))


def _packed(forecast: Forecast) -> dict[str, Any]:
    owners = {start.owner_id: None for start in forecast.starts}
    numbers = {owner: number for number, owner in enumerate(owners)}
    return {
        "owners": list(owners),
        "starts": [
            [start.job_id, numbers[start.owner_id], start.priority, round(start.seconds, 2), start.where]
            for start in forecast.starts
        ],
        "held": dict(forecast.held),
        "limited": dict(forecast.limited),
        "weights": dict(forecast.weights),
        **{name: getattr(forecast, name) for name in ("workers", "nobody", "free_in", "pace")},
        # JSON knows no infinity
        "bars": [[min(bar.upto, _LAST), bar.low, bar.high] for bar in forecast.bars],
    }


def _unpacked(at: datetime, packed: Mapping[str, Any], age: float) -> Forecast:
    rest = {name: value for name, value in packed.items() if name not in ("owners", "starts", "bars")}
    bars = tuple(Bar(*bar) for bar in packed["bars"])
    starts = tuple(
        Start(job_id=job, owner_id=packed["owners"][owner], priority=priority, seconds=seconds, where=where)
        for job, owner, priority, seconds, where in packed["starts"]
    )
    return Forecast(at=at, age=age, starts=starts, bars=bars, **rest)
