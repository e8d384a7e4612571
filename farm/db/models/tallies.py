"""Jobs counted by owner, batch, priority and state; and what the leader foresees. Pages read these instead of jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from farm.db.models.base import Base


class Tally(Base):
    """How many jobs there are. Triggers of the table `jobs` keep it, so that it is true whoever writes."""

    __tablename__ = "tallies"
    # open jobs stand in few rows, however many batches have ended
    __table_args__ = (Index("ix_tallies_state", "state", "owner_id"),)

    owner_id: Mapped[str] = mapped_column(primary_key=True)
    #: empty for jobs without one
    batch_id: Mapped[str] = mapped_column(primary_key=True, index=True)
    priority: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]


class TallyChange(Base):
    """What is to be added to a tally. On PostgreSQL writers add rows here, so that none waits for another; the leader adds
    them up. SQLite, where there is one writer at a time, leaves this empty."""

    __tablename__ = "tally_changes"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    owner_id: Mapped[str]
    batch_id: Mapped[str]
    priority: Mapped[int]
    state: Mapped[str]
    n: Mapped[int]


class Forecast(Base):
    """The one row in which the leader writes what it foresees: a `farm.jobs.forecast.Forecast`."""

    __tablename__ = "forecasts"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    #: by the leader's clock
    at: Mapped[datetime]
    #: by the database's, which also tells how long ago that was
    written_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())
    foreseen: Mapped[dict[str, Any]]
