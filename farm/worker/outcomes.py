"""How an attempt ends: a table from exceptions to outcomes, and the one place that tells SQL."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum

import structlog
from sqlalchemy.exc import DBAPIError

from farm.errors import BadRequest, Conflict, FarmError, NoRoom, NotFound, Permanent, Transient
from farm.worker.device import is_broken, is_out_of_memory
from farm.worker.effects import Effects
from farm.worker.held import HeldJob, Interrupted
from farm.worker.keeper import SETTLE_SECONDS, Keeper
from farm.worker.patience import Patience

log = structlog.get_logger(__name__)


class Kind(StrEnum):
    #: queued again after a pause
    TRANSIENT = "transient"
    #: fails with its reason
    PERMANENT = "permanent"
    #: fails with what was needed and what there was; the sampler has tried a smaller batch before
    OOM = "oom"
    #: handed back, and this worker takes no more until it has room
    BLOCKED = "blocked"
    #: queued again, and this process ends, because its device answers no more
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    kind: Kind
    #: stable, for machines
    code: str
    #: for a person
    message: str
    #: bytes of disk that were missing
    needed: int = 0


#: First match counts. The code of one of Farm's own errors is the error's.
TABLE: tuple[tuple[type[BaseException], Kind, str], ...] = (
    (NoRoom, Kind.BLOCKED, "disk_full"),
    (Transient, Kind.TRANSIENT, "transient"),
    (NotFound, Kind.PERMANENT, "file_missing"),
    (BadRequest, Kind.PERMANENT, "bad_request"),
    (Conflict, Kind.PERMANENT, "conflict"),
    (Permanent, Kind.PERMANENT, "permanent"),
    (DBAPIError, Kind.TRANSIENT, "database_away"),
    (ConnectionError, Kind.TRANSIENT, "connection_lost"),
    (TimeoutError, Kind.TRANSIENT, "timeout"),
    (OSError, Kind.TRANSIENT, "io_error"),
    (Exception, Kind.PERMANENT, "internal_error"),
)


def judge(error: Exception) -> Verdict:
    """What an exception means for the job that it happened to."""
    if is_out_of_memory(error):
        return Verdict(kind=Kind.OOM, code="out_of_memory", message="the worker ran out of memory")
    if is_broken(error):
        return Verdict(kind=Kind.DEVICE, code="device_broken", message=f"the device failed: {_line(error)}")
    kind, code = next((kind, code) for cls, kind, code in TABLE if isinstance(error, cls))
    if isinstance(error, FarmError):
        needed = error.needed if isinstance(error, NoRoom) else 0
        return Verdict(kind=kind, code=error.code or code, message=str(error), needed=needed)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Verdict(kind=Kind.BLOCKED, code="disk_full", message=f"the disk is full: {_line(error)}")
    if code == "internal_error":
        return Verdict(kind=kind, code=code, message=f"{type(error).__name__}: {_line(error)}")
    return Verdict(kind=kind, code=code, message=_line(error))


class Endings:
    """Records the end of attempts that did not succeed."""

    def __init__(self, effects: Effects, patience: Patience, keeper: Keeper):
        self._effects = effects
        self._patience = patience
        self._keeper = keeper

    def interrupted(self, held: HeldJob, interruption: Interrupted) -> str | None:
        """The state that the job is in now; None when another attempt decides."""
        if interruption.reason == "lost":
            log.info("attempt_lost")
            return None
        if interruption.reason == "cancelled":
            won = self._record("cancelled", lambda: self._effects.cancelled(held))
            log.info("job_cancelled", step=held.step)
            return "cancelled" if won else None
        left = self._patience.hands.seconds_left()
        # the checkpoint first: a job that is handed back takes none any more
        self._keeper.settle(held, SETTLE_SECONDS if left is None else min(SETTLE_SECONDS, left / 2))
        outcome = interruption.reason
        won = self._record("hand_back", lambda: self._effects.hand_back(held, outcome, ""))
        log.info("job_handed_back", why=outcome, step=held.step)
        return "queued" if won else None

    def failed(self, held: HeldJob, error: Exception) -> str | None:
        """The state that the job is in now; None when another attempt decides."""
        verdict = judge(error)
        code, message = verdict.code, verdict.message
        if verdict.kind is Kind.BLOCKED:
            log.error("blocked", code=code, message=message)
            self._patience.hands.block(message, verdict.needed)
            won = self._record("hand_back", lambda: self._effects.hand_back(held, "blocked", message))
            return "queued" if won else None
        if verdict.kind in (Kind.TRANSIENT, Kind.DEVICE):
            log.info("attempt_failed", code=code, message=message)
            won = self._record("retry_later", lambda: self._effects.retry_later(held, code, message))
            if verdict.kind is Kind.DEVICE:
                log.error("device_broken", message=message)
                self._patience.hands.broken.set()
            return "queued" if won else None
        if code == "internal_error":
            log.error("job_failed", code=code, exc_info=error)
        else:
            log.info("job_failed", code=code, message=message)
        won = self._record("fail", lambda: self._effects.fail(held, code, message))
        return "failed" if won else None

    def _record(self, what: str, action: object) -> bool:
        assert callable(action)
        try:
            return bool(self._patience.until_done(what, action))
        except (Transient, DBAPIError) as error:
            # the lease runs out, and the leader queues the job again
            log.error("ending_not_recorded", what=what, error=_line(error))
            return False


def _line(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.split("\n", 1)[0][:300] if text else type(error).__name__
