"""The record of an extraction: the job ends and its adapter appears in one transaction, once, guarded by the attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from farm.db.models import Job
from farm.jobs.adapters import register_adapter
from farm.jobs.moves import end_well
from farm.lora.formats.header import Header
from farm.lora.formats.inspect import AdapterInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAdapter:
    """An adapter whose file is in the store already."""

    name: str
    file_name: str
    sha256: str
    size: int
    header: Header
    info: AdapterInfo


def succeed_with_adapter(
    session: Session,
    job_id: str,
    attempt: int,
    made: NewAdapter,
    report: Mapping[str, Any],
    timings: Mapping[str, Any],
    now: datetime,
    *,
    warnings: Sequence[str] = (),
) -> bool:
    """Register the adapter and end the job; as `attempts.succeed`, it may be called again after a commit of unknown
    outcome.

    Raises:
        Conflict: meanwhile the name became another owner's.
    """
    stands, owner_id = end_well(session, job_id, attempt, timings, now, warnings=warnings)
    if owner_id is None:
        return stands
    adapter_id = register_adapter(
        session, owner_id, name=made.name, file_name=made.file_name, sha256=made.sha256, size=made.size,
        header=made.header, info=made.info, now=now,
    )  # fmt: skip
    adapter = {"id": adapter_id, "name": made.name, "sha256": made.sha256, "size": made.size}
    session.execute(
        update(Job).where(Job.id == job_id).values(result={"adapter": adapter, "report": dict(report)}),
        execution_options={"synchronize_session": False},
    )
    return True
