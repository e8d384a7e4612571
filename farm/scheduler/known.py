"""What a leader knows of its workers: a report is read and taken apart again only when its worker's counter has moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Worker
from farm.jobs.rates import Rates
from farm.jobs.reports import WorkerReport

#: reports that one statement asks for
_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A report, as plans need it."""

    seq: int
    rates: Rates
    adapters: frozenset[str]
    disk: frozenset[str]
    #: the model used last
    model_key: str | None
    memory_bytes: int
    tags: frozenset[str]
    #: pictures worth a forward pass, by batch key
    batch_sizes: Mapping[str, int]
    #: why it takes no jobs; empty: it does
    blocked: str


class Knowledge:
    """The reports that were read so far, by worker."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    def of(self, session: Session, counters: Mapping[str, int]) -> Mapping[str, Known]:
        """Of these workers (id to counter), and of no others any more."""
        self._known = {who: known for who, known in self._known.items() if counters.get(who) == known.seq}
        missing = [who for who in counters if who not in self._known]
        for start in range(0, len(missing), _ROWS):
            for row in session.execute(
                select(Worker.id, Worker.seq, Worker.report).where(
                    Worker.id.in_(missing[start : start + _ROWS])
                )
            ):
                self._known[row.id] = _known(row.seq, WorkerReport.from_dict(row.report))
        return self._known


def _known(seq: int, report: WorkerReport) -> Known:
    return Known(
        seq=seq,
        rates=Rates.of(report),
        adapters=frozenset(report.adapters),
        disk=frozenset(report.disk),
        model_key=report.models[-1] if report.models else None,
        memory_bytes=report.memory_total,
        tags=frozenset(report.tags),
        batch_sizes=report.batch_sizes,
        blocked=report.blocked,
    )
