"""The page of one job: pictures, where the time went, what each step got; and what may be done with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, redirect, render_template, request
from werkzeug.wrappers import Response

from farm.errors import BadRequest
from farm.jobs import control, views
from farm.jobs.kinds import STAGES, Kind
from farm.jobs.submit import submit
from farm.web import notify
from farm.web.auth import current_user
from farm.web.pages import acts, forms, strips, words
from farm.web.pages.create import with_preview
from farm.web.pages.queue import second_strip_of, strip_of
from farm.web.services import services

blueprint = Blueprint("jobs", __name__)

LANE_COLOURS = {
    "waiting": "var(--waiting)",
    "fetching": "oklch(var(--adapter-l) var(--adapter-c) 200)",
    "loading": "oklch(var(--adapter-l) var(--adapter-c) 70)",
    "patching": "oklch(var(--adapter-l) var(--adapter-c) 300)",
    "sampling": "var(--running)",
    "extracting": "var(--running)",
    "uploading": "var(--ok)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One stage of a job, as a bar on the axis of its whole time."""

    name: str
    seconds: float
    #: percent of the whole
    left: float
    width: float
    colour: str


@blueprint.get("/jobs/<id:job_id>")
def page(job_id: str) -> str:
    return render_template("pages/job.html", **_context(job_id))


@blueprint.get("/jobs/<id:job_id>/body")
def body(job_id: str) -> str:
    """What changes on the page of a job, for pages that are open."""
    return render_template("parts/job_body.html", **_context(job_id))


def _context(job_id: str) -> dict[str, Any]:
    with services().sessions() as session:
        job = with_preview(views.job_view(session, current_user().id, job_id))
        names = {worker["id"]: worker["name"] for worker in views.worker_views(session)}
        recorded = (job.get("timings") or {}).get("strengths")
        strip = strips.of_explain(recorded) if recorded else strip_of(session, job)
        second = None if recorded else second_strip_of(session, job)
    return {
        "job": job,
        "strip": strip,
        "second": second,
        "recorded": bool(recorded),
        "workers_by_id": names,
        "lanes": time_lanes(job),
        "chart": strips.chart(strip) if strip and strip.varies else None,
    }


def time_lanes(job: dict[str, Any]) -> tuple[Lane, ...]:
    """Where the time of a job went, one lane a stage, in the order in which stages begin."""
    timings = job.get("timings") or {}
    stages = STAGES[Kind(job["kind"])]
    seconds = {"waiting": _waited(job), **{stage.value: _number(timings, stage.value) for stage in stages}}
    whole = sum(seconds.values())
    if not whole or not job.get("finished_at"):
        return ()
    lanes, left = [], 0.0
    for name, took in seconds.items():
        width = 100 * took / whole
        lanes.append(Lane(name=name, seconds=took, left=left, width=width, colour=LANE_COLOURS[name]))
        left += width
    return tuple(lanes)


def _number(timings: dict[str, Any], stage: str) -> float:
    value = timings.get(stage, (timings.get("seconds") or {}).get(stage))
    return float(value or 0)


def _waited(job: dict[str, Any]) -> float:
    begun: datetime | None = words.moment(job.get("started_at"))
    asked = words.moment(job.get("created_at"))
    return max(0.0, (begun - asked).total_seconds()) if begun and asked else 0.0


@blueprint.post("/jobs/<id:job_id>/cancel")
def cancel(job_id: str) -> Response:
    owner = current_user().id
    with services().sessions() as session:
        state = control.cancel(session, owner, job_id, services().now())
        session.commit()
    notify.job_changed(services(), owner, job_id, state)
    return acts.done(
        "Cancelled." if state == "cancelled" else "It ends with the present step.", back=f"/jobs/{job_id}"
    )


@blueprint.post("/jobs/<id:job_id>/retry")
def retry(job_id: str) -> Response:
    owner = current_user().id
    with services().sessions() as session:
        state = control.retry(session, owner, job_id, services().now())
        session.commit()
    notify.job_changed(services(), owner, job_id, state)
    return acts.done("It waits for a worker again.", back=f"/jobs/{job_id}")


@blueprint.post("/jobs/<id:job_id>/priority")
def priority(job_id: str) -> Response:
    """Move a waiting job to another priority."""
    owner = current_user().id
    word = request.form.get("priority", "")
    with services().sessions() as session:
        control.set_priority(session, owner, job_id, word, services().now())
        session.commit()
    notify.job_changed(services(), owner, job_id, "queued")
    return acts.done(f"Its priority is {word}.", back="/queue")


@blueprint.post("/jobs/<id:job_id>/again")
def again(job_id: str) -> Response:
    """Queue the very same job, same seed and all, as a new one."""
    user = current_user()
    owner = user.id
    with services().sessions() as session:
        job = views.job_view(session, owner, job_id)
        if job["kind"] != Kind.RENDER:
            raise BadRequest("only a picture is rendered again", "fill in the form of this job anew")
        spec = {name: job[name] for name in forms.FIELDS if job.get(name) is not None}
        new = submit(
            session, owner, spec, limits=services().limits, now=services().now(), key_id=user.limited_key
        )
        session.commit()
    notify.job_changed(services(), owner, new, "queued")
    return redirect(f"/jobs/{new}", 303)
