"""The row that says who leads. Every change is a compare-and-set; when a lease has ended is decided by its taker's own clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from farm.db.models import Lease
from farm.db.rows import changed


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A lease as read; `holder` is empty once it was released."""

    holder: str
    epoch: int
    seq: int


def read(session: Session, name: str) -> LeaseView | None:
    """The lease as it stands, or None before anybody ever led."""
    row = session.execute(
        select(Lease.holder, Lease.epoch, Lease.seq).where(Lease.name == name)
    ).one_or_none()
    return None if row is None else LeaseView(holder=row.holder, epoch=row.epoch, seq=row.seq)


def create(session: Session, name: str, holder: str) -> int | None:
    """Lead as the very first; the epoch, or None when another was first."""
    try:
        with session.begin_nested():
            session.execute(insert(Lease).values(name=name, holder=holder, epoch=1, seq=0))
    except IntegrityError:
        return None
    return 1


def take(session: Session, name: str, holder: str, epoch: int, seq: int) -> int | None:
    """Take over a lease that stood still at (epoch, seq); the new epoch, or None when it has moved after all."""
    done = session.execute(
        update(Lease)
        .where(Lease.name == name, Lease.epoch == epoch, Lease.seq == seq)
        .values(holder=holder, epoch=epoch + 1, seq=0)
    )
    return epoch + 1 if changed(done) == 1 else None


def renew(session: Session, name: str, holder: str, epoch: int) -> bool:
    """Count on; False when another leads now."""
    done = session.execute(
        update(Lease)
        .where(Lease.name == name, Lease.holder == holder, Lease.epoch == epoch)
        .values(seq=Lease.seq + 1)
    )
    return changed(done) == 1


def keep_ledger(session: Session, name: str, epoch: int, ledger: Mapping[str, Any]) -> bool:
    """Keep what the next leader starts from; False when another leads already."""
    done = session.execute(
        update(Lease).where(Lease.name == name, Lease.epoch == epoch).values(ledger=dict(ledger))
    )
    return changed(done) == 1


def read_ledger(session: Session, name: str) -> dict[str, Any]:
    """What the last leader kept; empty before anybody did."""
    return session.execute(select(Lease.ledger).where(Lease.name == name)).scalar_one_or_none() or {}


def release(session: Session, name: str, holder: str, epoch: int) -> bool:
    """Stop leading, so that another may take over at once; False when another leads already."""
    done = session.execute(
        update(Lease)
        .where(Lease.name == name, Lease.holder == holder, Lease.epoch == epoch)
        .values(holder="", seq=Lease.seq + 1)
    )
    return changed(done) == 1
