"""The Queue page: what runs, what waits and why, what failed, what was just finished."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template
from sqlalchemy.orm import Session

from farm.errors import FarmError
from farm.jobs import views
from farm.jobs.prepare import explain, prepare
from farm.web.auth import current_user
from farm.web.pages import strips
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

RUNNING, WAITING, FAILED, DONE = 24, 50, 10, 12


@blueprint.get("/queue")
def page() -> str:
    """The whole page."""
    return render_template("pages/queue.html", **_lanes())


@blueprint.get("/queue/lanes")
def lanes() -> str:
    """Its lanes alone, for pages that are open."""
    return render_template("parts/lanes.html", **_lanes())


def _lanes() -> dict[str, Any]:
    owner = current_user().id
    with services().sessions() as session:
        running = views.list_jobs(session, owner, states=("running",), limit=RUNNING)
        waiting = views.list_jobs(session, owner, states=("queued", "assigned"), limit=WAITING)
        failed = views.list_jobs(session, owner, states=("failed",), limit=FAILED)
        done = views.list_jobs(session, owner, states=("succeeded", "cancelled"), limit=DONE)
        # those without a position were given to a worker already
        in_order = sorted(
            waiting.items, key=lambda job: (-1 if job["position"] is None else job["position"], job["id"])
        )
        return {
            "running": [with_preview(job) | {"strip": strip_of(session, job)} for job in running.items],
            "waiting": in_order,
            "more_waiting": waiting.next_cursor is not None,
            "failed": failed.items,
            "done": done.items,
        }


def strip_of(session: Session, job: dict[str, Any]) -> strips.Strip | None:
    """What each step of `job` gets, worked out from its prompt; None when that is not possible any more."""
    return strips.of_explain(explained(session, job), reached=_reached(job))


def second_strip_of(session: Session, job: dict[str, Any]) -> strips.Strip | None:
    """The same for its second pass; None when it has none."""
    return strips.of_second_pass(explained(session, job), reached=_reached(job))


def explained(session: Session, job: dict[str, Any]) -> dict[str, Any] | None:
    """The `explain` object of a job; None without adapters, or when they or the model are gone."""
    return _explained.get(job["id"], lambda: _explain(session, job)) if job["networks"] else None


def _reached(job: dict[str, Any]) -> int | None:
    return job["step"] if job["state"] == "running" else None


def _explain(session: Session, job: dict[str, Any]) -> dict[str, Any] | None:
    spec = {name: job[name] for name in STRENGTHS_FROM if job.get(name) is not None}
    try:
        return explain(session, prepare(session, job["owner"], spec, limits=services().limits))
    except FarmError:
        return None
