"""Workers and the leases of leading schedulers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from farm.db.models.base import Base


class Worker(Base):
    __tablename__ = "workers"
    # room for heartbeats to rewrite a row in its page
    __table_args__ = {"postgresql_with": {"fillfactor": 70}}

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    device: Mapped[str]
    #: up, draining (finishes, takes nothing new), gone
    state: Mapped[str] = mapped_column(default="up")
    #: asked for by an operator; the worker obeys with its next heartbeat
    drain_requested: Mapped[bool] = mapped_column(default=False)
    #: how often an operator asked it to load its models afresh; the worker obeys when the number grows
    reloads_requested: Mapped[int] = mapped_column(default=0, server_default="0")
    #: the waiting job whose files it should have early
    next_job: Mapped[str | None]
    #: farm.jobs.reports.WorkerReport as JSON
    report: Mapped[dict[str, Any]]
    #: heartbeat counter: what leases go by, never the clock
    seq: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime]
    last_seen: Mapped[datetime]


class Pause(Base):
    """What an operator has stopped: nothing of it is assigned until the row is gone."""

    __tablename__ = "pauses"

    #: queue, model or user
    kind: Mapped[str] = mapped_column(primary_key=True)
    #: id of the model or user; empty for the queue
    subject: Mapped[str] = mapped_column(primary_key=True)
    #: the operator
    user_id: Mapped[str]
    at: Mapped[datetime]


class Lease(Base):
    """Who leads. Taken over when (epoch, seq) stands still for a lease on the taker's own monotonic clock."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    epoch: Mapped[int] = mapped_column(default=0)
    seq: Mapped[int] = mapped_column(default=0)
    #: what the next leader starts from: a farm.scheduler.share.Ledger as JSON
    ledger: Mapped[dict[str, Any] | None]
