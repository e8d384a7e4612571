"""A job as its worker needs it: read in one query, plain data, usable after the session is closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Attempt, Job, Model
from farm.errors import NotFound
from farm.jobs.kinds import Extraction, Kind
from farm.jobs.prepare import Network
from farm.jobs.spec import FIELDS, JobSpec
from farm.store.trees import ManifestFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The base model of a job, as a worker needs it."""

    id: str
    #: what jobs and reports call it: the hash of its manifest
    key: str
    name: str
    family: str
    #: [{"path", "sha256", "size"}]
    manifest: tuple[Mapping[str, Any], ...]
    configs: Mapping[str, Any]
    defaults: Mapping[str, Any]
    bytes: int

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        return tuple(
            ManifestFile(path=row["path"], sha256=row["sha256"], size=row["size"]) for row in self.manifest
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """Where the state of a run in the middle is stored."""

    key: str
    sha256: str
    #: steps of the job that are done in it
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobForWorker:
    """A job with all that is needed to do it."""

    id: str
    attempt: int
    owner_id: str
    state: str
    worker_id: str | None
    #: a word of `Kind`, or of a later version's
    kind: str
    #: of a job that extracts
    extraction: Extraction | None
    #: normalised: no None but for `webhook`
    spec: JobSpec
    #: the prompt without tags, with trigger words
    clean_prompt: str
    networks: tuple[Network, ...]
    warnings: tuple[str, ...]
    model: ModelFiles
    batch_key: str
    network_set: str
    priority: int
    created_at: datetime
    cancel_requested: bool
    #: where an earlier attempt can be gone on from
    checkpoint: CheckpointRef | None
    #: an earlier attempt ended in mid-sampling: its worker was lost, stopped, or gave way
    broken_off: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each picture."""
        first = self.spec.seed or 0
        return tuple(range(first, first + self.spec.count))


def load_for_worker(session: Session, job_id: str) -> JobForWorker:
    """The job as it stands now, with the model files that it was submitted for.

    Raises:
        NotFound: no such job.
    """
    row = session.execute(
        select(Job, Model).join(Model, Model.id == Job.model_id).where(Job.id == job_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no job {job_id}", code="no_job")
    job, model = row
    earlier = session.execute(
        select(Attempt.outcome, Attempt.timings).where(
            Attempt.job_id == job_id, Attempt.outcome.in_(["lost", "drained", "preempted", "blocked"])
        )
    ).all()
    return JobForWorker(
        id=job.id,
        attempt=job.attempt,
        owner_id=job.owner_id,
        state=job.state,
        worker_id=job.worker_id,
        kind=job.kind,
        extraction=Extraction(**job.spec["extract"]) if job.kind == Kind.EXTRACT else None,
        spec=JobSpec.model_validate({name: job.spec[name] for name in FIELDS if name in job.spec}),
        clean_prompt=job.clean_prompt,
        networks=tuple(Network(**network) for network in job.networks),
        warnings=tuple(job.warnings),
        model=ModelFiles(
            id=model.id,
            key=model.sha256,
            name=model.name,
            family=model.family,
            manifest=tuple(model.manifest),
            configs=model.configs,
            defaults=model.defaults,
            bytes=model.bytes,
        ),
        batch_key=job.batch_key,
        network_set=job.network_set,
        priority=job.priority,
        created_at=job.created_at,
        cancel_requested=job.cancel_requested_at is not None,
        checkpoint=_checkpoint(job),
        broken_off=any(row.outcome == "lost" or row.timings.get("sampling") for row in earlier),
    )


def _checkpoint(job: Job) -> CheckpointRef | None:
    if job.checkpoint_key is None:
        return None
    return CheckpointRef(
        key=job.checkpoint_key, sha256=job.checkpoint_sha256 or "", step=job.checkpoint_step or 0
    )
