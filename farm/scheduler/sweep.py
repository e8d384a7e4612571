"""Objects that belong to nobody: pictures and checkpoints of attempts that lost, uploads that were never completed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Job
from farm.errors import Transient
from farm.jobs.resuming import checkpoints_in_use
from farm.store.s3 import Store
from farm.store.sweep import sweep_checkpoints, sweep_results, sweep_uploads

log = structlog.get_logger()


def sweep_store(sessions: sessionmaker[Session], store: Store, now: datetime) -> None:
    """Delete what is a day old and nobody's; a store that is away is swept the next time."""

    def result_attempts(jobs: Collection[str]) -> Mapping[str, int]:
        with sessions() as session:
            rows = session.execute(
                select(Job.id, Job.result_attempt).where(Job.id.in_(jobs), Job.result_attempt.is_not(None))
            )
            return {row.id: row.result_attempt for row in rows}

    def in_use(jobs: Collection[str]) -> Collection[str]:
        with sessions() as session:
            return checkpoints_in_use(session, jobs)

    try:
        sweep_results(store, result_attempts, now)
        sweep_checkpoints(store, in_use, now)
        sweep_uploads(store, now)
    except Transient as error:
        log.warning("not_swept", error=str(error))
