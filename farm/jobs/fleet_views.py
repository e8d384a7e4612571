"""Workers and the queue as plain dicts. Of people's jobs only ids and progress are in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import Adapter, AdapterVersion, Job, Model, Pause, Worker
from farm.errors import NotFound
from farm.jobs import losses
from farm.jobs.crashes import SUSPECT_AFTER
from farm.jobs.estimate import read_lanes, read_queue
from farm.jobs.rates import duration, fleet_seconds
from farm.jobs.reports import WorkerReport
from farm.jobs.states import HELD, OPEN, State
from farm.jobs.tallies import open_jobs

#: of a worker, as people see it
STATES = ("up", "suspect", "blocked", "draining", "gone")
_SUSPECT = f"lost {SUSPECT_AFTER} different jobs in a row; it gets one at a time until one succeeds"


def worker_views(session: Session) -> list[dict[str, Any]]:
    """All workers, those that are up first; of jobs only ids and progress."""
    rows = session.scalars(select(Worker).order_by(Worker.name)).all()
    views = _views(session, rows)
    return sorted(views, key=lambda view: STATES.index(view["state"]))


def worker_view(session: Session, worker_id: str) -> dict[str, Any]:
    """One worker.

    Raises:
        NotFound: no such worker.
    """
    row = session.get(Worker, worker_id)
    if row is None:
        raise NotFound("no such worker", "GET /api/v1/workers lists all", code="no_worker")
    return _views(session, [row])[0]


def queue_summary(session: Session, owner_id: str) -> dict[str, Any]:
    """Open jobs of all and of this owner by state, workers that are up, and the seconds until the queue is empty."""
    counts = {name: dict.fromkeys(sorted(OPEN), 0) for name in ("all", "mine")}
    for row in open_jobs(session):
        for name in ("all", "mine") if row.owner_id == owner_id else ("all",):
            counts[name][State(row.state)] += row.n
    lanes = read_lanes(session)
    every = counts["all"]
    waiting, running = every[State.QUEUED] + every[State.ASSIGNED], every[State.RUNNING]
    seconds: float | None = None
    if lanes:
        held = sum(lane.busy_seconds for lane in lanes) / len(lanes)
        seconds = held + (fleet_seconds(lanes, read_queue(session)) if waiting else 0.0)
    paused = session.get(Pause, ("queue", "")) is not None
    words = f"{waiting} waiting · {running} running"
    if paused:
        words += " · paused"
    elif seconds:
        words += f" · about {duration(seconds)}"
    return {
        "waiting": waiting,
        "running": running,
        "workers": len(lanes),
        "paused": paused,
        "seconds": seconds,
        "sentence": words,
        "all": {str(state): number for state, number in counts["all"].items()},
        "mine": {str(state): number for state, number in counts["mine"].items()},
    }


def _views(session: Session, rows: Sequence[Worker]) -> list[dict[str, Any]]:
    reports = {row.id: WorkerReport.from_dict(row.report) for row in rows}
    models = dict(
        session.execute(
            select(Model.sha256, Model.name)
            .where(
                Model.sha256.in_(
                    {key for report in reports.values() for key in (*report.models, *report.disk)}
                )
            )
            .order_by(Model.id)
        )
        .tuples()
        .all()
    )
    hot = {sha256 for report in reports.values() for sha256 in report.adapters}
    adapters = {
        sha256: {"name": name, "bytes": size}
        for sha256, name, size in session.execute(
            select(AdapterVersion.sha256, Adapter.name, AdapterVersion.size)
            .join(Adapter, Adapter.id == AdapterVersion.adapter_id)
            .where(AdapterVersion.sha256.in_(hot))
            .order_by(AdapterVersion.id)
        )
    }
    jobs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in session.execute(
        select(Job.worker_id, Job.id, Job.state, Job.stage, Job.step, Job.steps.label("total_steps"))
        .where(Job.worker_id.in_(list(reports)), Job.state.in_(sorted(HELD)))
        .order_by(Job.id)
    ).mappings():
        jobs[job["worker_id"]].append({name: value for name, value in job.items() if name != "worker_id"})
    suspect = losses.suspects(session)
    return [
        _view(row, reports[row.id], models, adapters, jobs[row.id], suspect=row.id in suspect) for row in rows
    ]


def _view(
    row: Worker,
    report: WorkerReport,
    models: Mapping[str, str],
    adapters: Mapping[str, Mapping[str, Any]],
    jobs: list[dict[str, Any]],
    *,
    suspect: bool,
) -> dict[str, Any]:
    asked = report.cache_hits + report.cache_misses
    state, reason = row.state, ""
    if state == "up":
        if row.drain_requested:
            state = "draining"
        elif report.blocked:
            state, reason = "blocked", report.blocked
        elif suspect:
            state, reason = "suspect", _SUSPECT
    return {
        "id": row.id,
        "name": row.name,
        "state": state,
        "reason": reason,
        "device": row.device,
        "device_name": report.device_name,
        "tags": list(report.tags),
        "memory_total": report.memory_total,
        "memory_free": report.memory_free,
        "models": [{"key": key, "name": models.get(key, key[:12])} for key in report.models],
        "adapters": [
            {"sha256": sha256, **adapters.get(sha256, {"name": sha256[:12], "bytes": None})}
            for sha256 in report.adapters
        ],
        "adapter_bytes": report.adapter_bytes,
        # models that lie there whole stand beside their files
        "disk_files": sum(key not in models for key in report.disk),
        "cache_hits": report.cache_hits,
        "cache_misses": report.cache_misses,
        "hit_rate": report.cache_hits / asked if asked else None,
        "bytes_fetched": report.bytes_fetched,
        "bytes_prefetched": report.bytes_prefetched,
        "prefetch_hits": report.prefetch_hits,
        "jobs_done": report.jobs_done,
        "jobs": jobs,
        "seconds_per_step": dict(report.seconds_per_step),
        "load_seconds": dict(report.load_seconds),
        "fetch_bytes_per_second": report.fetch_bytes_per_second,
        "adapter_seconds": report.adapter_seconds,
        "version": report.version,
        "started_at": row.started_at,
        "last_seen": row.last_seen,
    }
