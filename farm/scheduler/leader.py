"""Who leads: a lease row that is renewed by counting, and taken over when the count stands still.

Only this process's monotonic clock decides that a lease has ended, so no machine's wall clock can steal it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from farm.jobs import leases

NAME = "scheduler"


class Leadership:
    """One candidate's view of the lease; call `tick` once a round."""

    def __init__(self, holder: str, lease_seconds: float):
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._seen: tuple[int, int] | None = None
        self._seen_at = 0.0
        #: epoch under which this process leads; None while it does not
        self.epoch: int | None = None

    def tick(self, session: Session, monotonic: float) -> bool:
        """Renew, or try to take over. Returns whether this process leads now."""
        if self.epoch is not None:
            if not leases.renew(session, NAME, self._holder, self.epoch):
                self.epoch = None
                self._seen = None
            return self.epoch is not None
        lease = leases.read(session, NAME)
        if lease is None:
            self.epoch = leases.create(session, NAME, self._holder)
            return self.epoch is not None
        seen = (lease.epoch, lease.seq)
        if seen != self._seen:
            self._seen, self._seen_at = seen, monotonic
        released = lease.holder == ""
        if released or monotonic - self._seen_at >= self._lease_seconds:
            self.epoch = leases.take(session, NAME, self._holder, lease.epoch, lease.seq)
        return self.epoch is not None

    def read_ledger(self, session: Session) -> dict[str, Any]:
        """What the last leader kept for this one; empty when there was none."""
        return leases.read_ledger(session, NAME)

    def keep_ledger(self, session: Session, ledger: Mapping[str, Any]) -> None:
        """Keep what the next leader starts from; nothing is written once another leads."""
        if self.epoch is not None:
            leases.keep_ledger(session, NAME, self.epoch, ledger)

    def release(self, session: Session) -> None:
        """Give the lease up in good order, so that another leads at once."""
        if self.epoch is not None:
            leases.release(session, NAME, self._holder, self.epoch)
            self.epoch = None
