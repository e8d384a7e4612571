"""Workers, models and samplers over HTTP: what renders, and with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, jsonify
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from farm.errors import NotFound
from farm.jobs import forecast, models, pauses, views, workers
from farm.jobs.queue_views import MOST, queue_front
from farm.models.samplers import SAMPLERS, sampler_label
from farm.web import notify
from farm.web.api import views as shown
from farm.web.api.catalog_schema import (
    ModelList,
    ModelView,
    PauseBody,
    PauseList,
    QueueView,
    SamplerList,
    StatsView,
    WorkerList,
    WorkerView,
)
from farm.web.api.common import Strict, blueprint, with_etag
from farm.web.auth import current_user, require_operator
from farm.web.services import services

api = blueprint("fleet", "What renders, and with what.")


class WorkerPath(BaseModel):
    worker_id: str = Field(description="Id or name.")


class QueueQuery(Strict):
    mine: bool = Field(False, description="Only your own jobs.")
    limit: int = Field(50, ge=1, le=MOST, description="Jobs in `items`, at most.")


class ModelPath(BaseModel):
    model_id: str = Field(description="Id or name.")


def find_worker(session: Session, id_or_name: str) -> dict[str, Any]:
    """The worker of this id, else of this name.

    Raises:
        NotFound: neither.
    """
    try:
        return views.worker_view(session, id_or_name)
    except NotFound:
        for view in views.worker_views(session):
            if view["name"] == id_or_name:
                return view
        raise NotFound(
            f"no worker '{id_or_name}'", "GET /api/v1/workers lists them", code="no_worker"
        ) from None


@api.get("/workers", responses={"200": WorkerList})
def list_workers() -> Response:
    """All workers, those that are up first."""
    with services().sessions() as session:
        return jsonify({"items": views.worker_views(session)})


@api.get("/workers/<name:worker_id>", responses={"200": WorkerView})
def show_worker(path: WorkerPath) -> Response:
    """One worker, by id or name."""
    with services().sessions() as session:
        return with_etag(find_worker(session, path.worker_id))


@api.post("/workers/<name:worker_id>:drain", responses={"200": WorkerView})
def drain_worker(path: WorkerPath) -> Response:
    """Let a worker finish what it has and give it nothing new. For operators."""
    return _order(path.worker_id, workers.drain)


@api.post("/workers/<name:worker_id>:resume", responses={"200": WorkerView})
def resume_worker(path: WorkerPath) -> Response:
    """Give work to a drained worker again. For operators."""
    return _order(path.worker_id, workers.resume)


@api.post("/workers/<name:worker_id>:reload", responses={"200": WorkerView})
def reload_worker(path: WorkerPath) -> Response:
    """Let a worker drop its models and adapters after its present job and load them afresh. For operators."""
    return _order(path.worker_id, workers.reload)


def _order(id_or_name: str, order: Callable[[Session, str], None]) -> Response:
    require_operator()
    with services().sessions() as session:
        worker_id = find_worker(session, id_or_name)["id"]
        order(session, worker_id)
        session.commit()
        view = views.worker_view(session, worker_id)
    notify.worker_changed(services(), view["id"], view["name"], view["state"])
    return with_etag(view)


@api.get("/queue", responses={"200": QueueView})
def show_queue(query: QueueQuery) -> Response:
    """What waits, in the order in which it is expected to start. Of other people's jobs there are no words and no ids."""
    viewer = current_user().id
    with services().sessions() as session:
        summary = views.queue_summary(session, viewer)
        found = queue_front(session, viewer, forecast.read(session), mine=query.mine, limit=query.limit)
        items = [shown.job(item) if item["mine"] else item for item in found]
        paused = pauses.pause_views(session)
    return jsonify({**summary, "pauses": paused, "items": items})


@api.get("/queue/pauses", responses={"200": PauseList})
def list_pauses() -> Response:
    """What operators have paused."""
    with services().sessions() as session:
        return jsonify({"items": pauses.pause_views(session)})


@api.post("/queue:pause", responses={"200": PauseList})
def pause_queue(body: PauseBody) -> Response:
    """Assign nothing more of the queue, a model or a user; what is on a worker goes on. For operators."""
    require_operator()
    with services().sessions.begin() as session:
        pauses.pause(session, body.kind, body.name, current_user().id, services().now())
        items = pauses.pause_views(session)
    notify.queue_changed(services())
    return jsonify({"items": items})


@api.post("/queue:resume", responses={"200": PauseList})
def resume_queue(body: PauseBody) -> Response:
    """Let the queue, a model or a user go on. For operators."""
    require_operator()
    with services().sessions.begin() as session:
        pauses.resume(session, body.kind, body.name)
        items = pauses.pause_views(session)
    notify.queue_changed(services())
    return jsonify({"items": items})


@api.get("/models", responses={"200": ModelList})
def list_models() -> Response:
    """The farm's base models, by name."""
    with services().sessions() as session:
        return jsonify({"items": models.list_models(session)})


@api.get("/models/<name:model_id>", responses={"200": ModelView})
def show_model(path: ModelPath) -> Response:
    """One base model, by id or name."""
    with services().sessions() as session:
        for view in models.list_models(session):
            if path.model_id in {view["id"], view["name"]}:
                return with_etag(models.model_view(session, view["id"]))
    raise NotFound(f"no model '{path.model_id}'", "GET /api/v1/models lists them", code="no_model")


@api.get("/samplers", responses={"200": SamplerList})
def list_samplers() -> Response:
    """Names of the samplers."""
    return jsonify({"items": [{"key": key, "label": sampler_label(key)} for key in SAMPLERS]})


@api.get("/stats", responses={"200": StatsView})
def show_stats() -> Response:
    """Counts of your jobs by state, of the whole queue and of the workers."""
    with services().sessions() as session:
        return jsonify(views.queue_summary(session, current_user().id))
