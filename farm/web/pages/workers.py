"""Workers: what renders, what it holds, what it does at the moment; drain and resume; how to add one."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template
from werkzeug.wrappers import Response

from farm.jobs import views, workers
from farm.jobs.states import HELD
from farm.web import notify
from farm.web.auth import current_user, require_operator
from farm.web.pages import acts
from farm.web.services import services

blueprint = Blueprint("workers", __name__)


@blueprint.get("/workers")
def page() -> str:
    return render_template("pages/workers.html", **_fleet())


@blueprint.get("/workers/list")
def listing() -> str:
    """The cards alone, for pages that are open."""
    return render_template("parts/worker_list.html", **_fleet())


def _fleet() -> dict[str, Any]:
    with services().sessions() as session:
        found = views.worker_views(session)
        mine = {
            job["id"]: job
            for job in views.list_jobs(session, current_user().id, states=tuple(HELD), limit=100).items
        }
    return {
        "workers": [worker for worker in found if worker["state"] != "gone"],
        "gone": [worker for worker in found if worker["state"] == "gone"],
        "mine": mine,
        "operates": current_user().operates,
    }


@blueprint.post("/workers/<id:worker_id>/drain")
def drain(worker_id: str) -> Response:
    return _order(worker_id, draining=True)


@blueprint.post("/workers/<id:worker_id>/resume")
def resume(worker_id: str) -> Response:
    return _order(worker_id, draining=False)


def _order(worker_id: str, *, draining: bool) -> Response:
    require_operator()
    with services().sessions() as session:
        name = views.worker_view(session, worker_id)["name"]
        (workers.drain if draining else workers.resume)(session, worker_id)
        session.commit()
    notify.worker_changed(services(), worker_id, name, "draining" if draining else "up")
    said = f"{name} finishes what it has and takes nothing new." if draining else f"{name} takes work again."
    return acts.done(said, back="/workers")
