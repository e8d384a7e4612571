"""The Queue page: what runs, what waits and why, what is paused, what failed, what was just finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import urlencode

from flask import Blueprint, render_template, request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from farm.errors import BadRequest, FarmError
from farm.jobs import forecast as forecasts
from farm.jobs import pauses, views
from farm.jobs.forecast import Forecast
from farm.jobs.kinds import Kind
from farm.jobs.prepare import explain, prepare
from farm.jobs.queue_views import MOST, queue_front
from farm.jobs.states import State
from farm.jobs.tallies import open_jobs
from farm.web import notify
from farm.web.auth import current_user, require_operator
from farm.web.pages import acts, strips
from farm.web.pages.create import with_preview
from farm.web.pages.recent import Recent
from farm.web.services import services

blueprint = Blueprint("queue", __name__)

#: fields of a job that its strengths follow from
STRENGTHS_FROM = (
    "prompt", "model", "width", "height", "steps", "sampler", "guidance_scale", "linear_curves", "hr_scale", "hr_steps",
    "hr_strength",
)  # fmt: skip
#: a job's prompt never changes
_explained: Recent[str, dict[str, Any]] = Recent(most=512)

RUNNING, FAILED, DONE = 24, 10, 12
#: jobs of the waiting lane: at first, and each time that somebody asks for more
WAITING = (30, 200, MOST)


@blueprint.get("/queue")
def page() -> str:
    """The whole page."""
    return render_template("pages/queue.html", **_lanes())


@blueprint.get("/queue/lanes")
def lanes() -> str:
    """Its lanes alone, for pages that are open."""
    return render_template("parts/lanes.html", **_lanes())


def _lanes() -> dict[str, Any]:
    viewer = current_user()
    mine, rows = "mine" in request.args, _rows()
    with services().sessions() as session:
        running = views.list_jobs(session, viewer.id, states=("running",), limit=RUNNING)
        failed = views.list_jobs(session, viewer.id, states=("failed",), limit=FAILED)
        done = views.list_jobs(session, viewer.id, states=("succeeded", "cancelled"), limit=DONE)
        counts = open_jobs(session, State.QUEUED, State.ASSIGNED)
        everybody = sum(row.n for row in counts)
        own = sum(row.n for row in counts if row.owner_id == viewer.id)
        forecast, paused = forecasts.read(session), pauses.pause_views(session)
        context = {
            "running": [with_preview(job) | {"strip": strip_of(session, job)} for job in running.items],
            "waiting": queue_front(session, viewer.id, forecast, mine=mine, limit=rows),
            "failed": failed.items,
            "done": done.items,
            "can_pause": pauses.pausable(session, paused) if viewer.operates else None,
        }
    return {
        **context,
        "everybody": everybody,
        "own": own,
        "mine": mine,
        "pauses": paused,
        "rows": rows,
        "more_rows": next((more for more in WAITING if more > rows), None),
        "a_minute": _a_minute(forecast, paused),
        "viewer": viewer,
        # what the open page asks for when it refreshes itself
        "query": urlencode(
            {**({"mine": 1} if mine else {}), **({"rows": rows} if rows != WAITING[0] else {})}
        ),
    }


def _a_minute(forecast: Forecast | None, paused: Iterable[Mapping[str, Any]]) -> float | None:
    """Jobs that start in a minute; None when none do, or nobody knows."""
    if forecast is None or forecast.stale or not forecast.pace or not forecast.workers:
        return None
    return None if any(row["kind"] == "queue" for row in paused) else 60 / forecast.pace


def _rows() -> int:
    asked = request.args.get("rows", type=int)
    return asked if asked in WAITING else WAITING[0]


@blueprint.post("/queue/pause")
def pause() -> Response:
    """Stop the queue, a model or a user."""
    return _held(
        lambda session, kind, name: pauses.pause(session, kind, name, current_user().id, services().now())
    )


@blueprint.post("/queue/resume")
def resume() -> Response:
    return _held(pauses.resume)


def _held(act: Callable[[Session, pauses.Kind, str], None]) -> Response:
    require_operator()
    what = request.form.get("what", "queue")
    kind, _, subject = what.partition(":")
    if kind not in ("queue", "model", "user"):
        raise BadRequest(f"'{kind}' cannot be paused", "the queue, a model or a user can", code="bad_pause")
    with services().sessions.begin() as session:
        act(session, cast(pauses.Kind, kind), subject)
        paused = any((row["kind"], row["subject"]) == (kind, subject) for row in pauses.pause_views(session))
    notify.queue_changed(services())
    thing = {"queue": "The queue", "model": "The model", "user": "The user"}[kind]
    return acts.done(f"{thing} {'is paused' if paused else 'goes on'}.", back="/queue")


def strip_of(session: Session, job: dict[str, Any]) -> strips.Strip | None:
    """What each step of `job` gets, worked out from its prompt; None when that is not possible any more."""
    return strips.of_explain(explained(session, job), reached=_reached(job))


def second_strip_of(session: Session, job: dict[str, Any]) -> strips.Strip | None:
    """The same for its second pass; None when it has none."""
    return strips.of_second_pass(explained(session, job), reached=_reached(job))


def explained(session: Session, job: dict[str, Any]) -> dict[str, Any] | None:
    """The `explain` object of a job that renders; None without adapters, or when they or the model are gone."""
    if job["kind"] != Kind.RENDER or not job["networks"]:
        return None
    return _explained.get(job["id"], lambda: _explain(session, job))


def _reached(job: dict[str, Any]) -> int | None:
    return job["step"] if job["state"] == "running" else None


def _explain(session: Session, job: dict[str, Any]) -> dict[str, Any] | None:
    spec = {name: job[name] for name in STRENGTHS_FROM if job.get(name) is not None}
    try:
        return explain(session, prepare(session, job["owner"], spec, limits=services().limits))
    except FarmError:
        return None
