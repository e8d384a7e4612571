"""Workers: what renders, what it holds, what it does at the moment; drain and resume; how to add one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, render_template
from sqlalchemy.orm import Session
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
    return _order(worker_id, workers.drain, "{} finishes what it has and takes nothing new.")


@blueprint.post("/workers/<id:worker_id>/resume")
def resume(worker_id: str) -> Response:
    return _order(worker_id, workers.resume, "{} takes work again.")


@blueprint.post("/workers/<id:worker_id>/reload")
def reload(worker_id: str) -> Response:
    return _order(worker_id, workers.reload, "{} loads its model afresh with the next job.")


def _order(worker_id: str, order: Callable[[Session, str], None], said: str) -> Response:
    require_operator()
    with services().sessions() as session:
        order(session, worker_id)
        view = views.worker_view(session, worker_id)
        session.commit()
    notify.worker_changed(services(), worker_id, view["name"], view["state"])
    return acts.done(said.format(view["name"]), back="/workers")
