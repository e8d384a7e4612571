"""Jobs into rows: one, or many in one transaction, all or none. They are accepted once the caller has committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, cast

from sqlalchemy import Table, insert, literal, select
from sqlalchemy.orm import Session

from farm.db.models import Batch, Job, JobEvent
from farm.errors import BadRequest, Problem
from farm.ids import BatchId, JobId, new_id, new_ids
from farm.jobs import adapters
from farm.jobs.check import check_own
from farm.jobs.drafts import Drafts
from farm.jobs.limits import Limits
from farm.jobs.prepare import Network, Prepared, Preparer, draw_seed, explain, prepare
from farm.jobs.spec import FIELDS, JobSpec, parse_spec
from farm.jobs.states import PRIORITIES, State

__all__ = ["BatchResult", "Network", "Prepared", "explain", "prepare", "submit", "submit_batch", "write_job"]

#: problems that one answer lists
MAX_ERRORS = 100
#: different warnings that one answer lists
MAX_WARNINGS = 100
_CHUNK = 1000
#: fields in which rows may differ and still share all that was prepared
_OWN = frozenset({"seed", "tags", "webhook", "priority"})
_SHARED = tuple(name for name in FIELDS if name not in {*_OWN, "worker_tags"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of a batch: accepted as a whole, or refused as a whole."""

    #: None when it was refused, or was a dry run
    batch_id: BatchId | None
    #: rows accepted (of a dry run: rows that would be)
    accepted: int
    #: pointers `/rows/N/field`, rows counted from 0; at most `MAX_ERRORS`
    errors: tuple[Problem, ...]
    warnings: tuple[str, ...]
    #: pictures and denoising steps of all rows together
    images: int
    steps: int
    #: distinct (model, adapters) groups: each is loaded and patched once when all goes well
    groups: int


@dataclass(slots=True)
class _Reader:
    """Reads the rows of a batch and keeps none of them: `drafts` has them, this has sums."""

    preparer: Preparer
    drafts: Drafts
    problems: list[Problem] = field(default_factory=list)
    warnings: dict[str, None] = field(default_factory=dict)
    images: int = 0
    steps: int = 0
    #: (model, adapters)
    groups: set[tuple[str, str]] = field(default_factory=set)
    #: jobs by adapter
    uses: Counter[str] = field(default_factory=Counter)
    _known: dict[tuple[Any, ...], _Wording] = field(default_factory=dict)

    def read(self, index: int, raw: Mapping[str, Any]) -> None:
        """Take one more row, or note what is wrong with it."""
        pointer = f"/rows/{index}"
        try:
            spec = parse_spec(raw, pointer)
        except BadRequest as error:
            self.problems += error.problems
            return
        key = tuple(getattr(spec, name) for name in _SHARED) + tuple(spec.worker_tags)
        try:
            known = self._known.get(key)
            if known is None:
                known = self._share(key, self.preparer.prepare(spec))
            elif wrong := check_own(spec, self.preparer.limits):
                raise BadRequest.of(tuple(wrong))
        except BadRequest as error:
            self.problems += [replace(item, pointer=pointer + item.pointer) for item in error.problems]
            return
        self.images += known.images
        self.steps += known.steps
        self.groups.add(known.group)
        self.uses.update(known.adapter_ids)
        seed = draw_seed() if spec.seed is None or spec.seed == -1 else spec.seed
        self.drafts.add(known.place, seed, spec.tags, spec.webhook, spec.priority)

    def _share(self, key: tuple[Any, ...], found: Prepared) -> _Wording:
        if len(self.warnings) <= MAX_WARNINGS:
            self.warnings.update(dict.fromkeys(found.warnings))
        place = self.drafts.share(_columns(found, [network.as_dict() for network in found.networks]))
        if place == 0:
            self._known.clear()
        self._known[key] = wording = _Wording(
            place,
            found.spec.count,
            found.spec.count * found.spec.total_steps,
            (found.model_key, found.network_set),
            tuple(network.adapter_id for network in found.networks),
        )
        return wording

    def told(self) -> tuple[str, ...]:
        """The warnings, at most `MAX_WARNINGS` and a last one that says there are more."""
        found = tuple(self.warnings)
        if len(found) <= MAX_WARNINGS:
            return found
        return (*found[:MAX_WARNINGS], "there are more warnings; each job shows its own")


class _Wording(NamedTuple):
    """A wording that `Drafts` remembers: where, and what it adds to the sums."""

    place: int
    images: int
    steps: int
    group: tuple[str, str]
    adapter_ids: tuple[str, ...]


def submit(
    session: Session,
    owner_id: str,
    spec: JobSpec | Mapping[str, Any],
    *,
    limits: Limits,
    now: datetime,
    key_id: str | None = None,
) -> JobId:
    """Prepare and write one job; it is accepted once the caller has committed. `key_id`: the API key whose limit of
    running jobs it counts against.

    Raises:
        BadRequest: every problem that was found, each with its JSON pointer.
    """
    return write_job(session, owner_id, prepare(session, owner_id, spec, limits=limits), now, key_id=key_id)


def write_job(session: Session, owner_id: str, found: Prepared, now: datetime, **other: Any) -> JobId:
    """One queued row, as prepared; `other` are columns in which its kind differs from a job that renders."""
    job_id = new_id("job", now)
    columns = _columns(found, [network.as_dict() for network in found.networks]) | other
    session.execute(
        insert(Job).values(
            **columns,
            id=job_id,
            owner_id=owner_id,
            priority=PRIORITIES[found.spec.priority],
            webhook=found.spec.webhook,
            created_at=now,
        )
    )
    session.execute(
        insert(JobEvent).values(
            job_id=job_id, attempt=0, transition="submit", state=State.QUEUED, detail=None, at=now
        )
    )
    adapters.count_uses(session, {network.adapter_id: 1 for network in found.networks})
    return JobId(job_id)


def submit_batch(
    session: Session,
    owner_id: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    name: str,
    limits: Limits,
    now: datetime,
    dry_run: bool = False,
    key_id: str | None = None,
) -> BatchResult:
    """Write all `rows` as jobs, or none. `rows` is read once, in order. The caller commits when `batch_id` is set.

    All rows are checked before the first is written, so that the database is locked for the writing alone; until then they
    wait in a temporary file. Memory does not grow with their number.
    """
    with Drafts() as drafts:
        reader = _Reader(Preparer(session, limits), drafts)
        for index, raw in enumerate(rows):
            if index >= limits.max_batch_rows:
                reader.problems.append(_too_many(limits))
                break
            reader.read(index, raw)
            if len(reader.problems) >= MAX_ERRORS:
                break
        if not len(drafts) and not reader.problems:
            reader.problems.append(
                Problem(
                    code="empty_batch",
                    message="the batch has no rows",
                    hint="give at least one job",
                    pointer="/rows",
                )
            )
        batch_id = None
        if not reader.problems and not dry_run:
            batch_id = _write(session, owner_id, key_id, drafts, name, now)
            adapters.count_uses(session, reader.uses)
        return BatchResult(
            batch_id=batch_id,
            accepted=0 if reader.problems else len(drafts),
            errors=tuple(reader.problems[:MAX_ERRORS]),
            warnings=reader.told(),
            images=reader.images,
            steps=reader.steps,
            groups=len(reader.groups),
        )


def _write(
    session: Session, owner_id: str, key_id: str | None, drafts: Drafts, name: str, now: datetime
) -> BatchId:
    batch_id = new_id("batch", now)
    session.execute(
        insert(Batch).values(
            id=batch_id,
            owner_id=owner_id,
            name=name,
            total=len(drafts),
            created_at=now,
            cancel_requested_at=None,
        )
    )
    connection = session.connection()
    statement = insert(cast(Table, Job.__table__))
    common = {"owner_id": owner_id, "key_id": key_id, "batch_id": batch_id, "created_at": now}
    rows = _values(drafts, now, common)
    while part := list(islice(rows, _CHUNK)):
        connection.execute(statement, part)
    session.execute(
        insert(JobEvent).from_select(
            ["job_id", "attempt", "transition", "state", "at"],
            select(
                Job.id,
                literal(0),
                literal("submit"),
                literal(State.QUEUED.value),
                literal(now, JobEvent.at.type),
            ).where(Job.batch_id == batch_id),
        )
    )
    return BatchId(batch_id)


def _values(drafts: Drafts, now: datetime, common: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    # ids that rise in the order of the rows: the queue keeps that order
    ids = new_ids("job", now, len(drafts))
    for index, (row, job_id) in enumerate(zip(drafts, ids, strict=True)):
        own = {"seed": row.seed, "tags": row.tags, "webhook": row.webhook, "priority": row.priority}
        yield {
            **row.shared,
            **common,
            "spec": row.shared["spec"] | own,
            "id": job_id,
            "batch_index": index,
            "priority": PRIORITIES[row.priority],
            "webhook": row.webhook,
        }


def _columns(found: Prepared, networks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "state": State.QUEUED,
        "spec": found.spec.stored(),
        "clean_prompt": found.clean_prompt,
        "networks": networks,
        "warnings": list(found.warnings),
        "model_id": found.model_id,
        "model_key": found.model_key,
        "network_set": found.network_set,
        "batch_key": found.batch_key,
        "worker_tags": sorted(set(found.spec.worker_tags)),
        "min_memory": found.spec.min_memory or 0,
        "steps": found.spec.total_steps,
        "count": found.spec.count,
    }


def _too_many(limits: Limits) -> Problem:
    return Problem(
        code="too_many_rows",
        message=f"the batch has more than {limits.max_batch_rows} rows",
        hint="send it as several batches",
        pointer="/rows",
    )
