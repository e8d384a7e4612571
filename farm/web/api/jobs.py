"""Jobs over HTTP: submit, list, show, reorder, cancel, retry, validate."""

from __future__ import annotations

from typing import Any, Literal

from flask import Response, jsonify, request
from pydantic import BaseModel, Field

from farm.errors import BadRequest, NotFound
from farm.jobs import control, views
from farm.jobs.prepare import prepare
from farm.jobs.spec import JobSpec, parse_spec
from farm.jobs.states import TERMINAL, State
from farm.jobs.submit import submit
from farm.queue import events
from farm.web import notify, sse
from farm.web.api import views as shown
from farm.web.api.common import (
    PREFIX,
    PageQuery,
    Strict,
    blueprint,
    check_if_match,
    conditional,
    declared_json,
    page,
    with_etag,
)
from farm.web.api.schema import JobDetail, JobEventList, JobPage, Validation
from farm.web.auth import current_user
from farm.web.idempotent import once
from farm.web.services import services

api = blueprint("jobs", "Ask for pictures, see where they stand.")

JOB_BODY = {
    "required": True,
    "content": {"application/json": {"schema": JobSpec.model_json_schema()}},
}
SPEC_OR_JOB = {
    "required": True,
    "content": {
        "application/json": {"schema": {"type": "object"}, "example": {"prompt": "a fox <lora:ink:0.8>"}}
    },
}


class JobPath(BaseModel):
    job_id: str


class JobsQuery(PageQuery):
    state: str = Field("", description="Comma-separated states.")
    batch: str = Field("", description="Id of a batch.")
    model: str = Field("", description="Name of a model.")
    lora: str = Field("", description="Name of an adapter.")
    worker: str = Field("", description="Id of a worker.")


class SubmitQuery(Strict):
    dry_run: bool = Field(False, description="Check and estimate; write nothing.")


class JobPatch(Strict):
    priority: Literal["interactive", "normal", "bulk"]


def states_of(text: str) -> tuple[str, ...]:
    """Words of a comma-separated list; `farm.jobs.views` refuses those that are no states."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def spec_of_body() -> dict[str, Any]:
    """The JSON object of the request.

    Raises:
        FarmError: another media type, broken JSON, no object.
    """
    body = declared_json(storable=False)  # a job's texts are checked with their place
    if not isinstance(body, dict):
        raise BadRequest("the body is no JSON object", 'send {"prompt": "…"}', code="malformed")
    return body


@api.post("/jobs", request_body=JOB_BODY, responses={"202": JobDetail, "200": Validation})
def submit_job(query: SubmitQuery) -> Response:
    """Queue a job; or, with `dry_run`, check it and estimate. Send an Idempotency-Key so that a retry makes no second one."""
    user = current_user()
    spec = parse_spec(spec_of_body())
    limits = services().limits
    if query.dry_run:
        with services().sessions() as session:
            found = prepare(session, user.id, spec, limits=limits)
            return jsonify({"valid": True, "errors": [], "dry_run": True, **shown.prepared(session, found)})

    def act(session: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        job_id = submit(session, user.id, spec, limits=limits, now=services().now(), key_id=user.limited_key)
        session.flush()
        view = shown.job(views.job_view(session, user.id, job_id))
        return 202, view, {"Location": f"{PREFIX}/jobs/{job_id}"}

    response, is_new = once(user.id, request.get_data(), act)
    if is_new:
        notify.job_changed(services(), user.id, (response.get_json())["id"], "queued")
    return response


@api.post("/jobs:validate", request_body=SPEC_OR_JOB, responses={"200": Validation})
def validate_job() -> Response:
    """Check a job, or `{"spec": job}`, without queueing it: what its tags mean, or every mistake with its place."""
    body = spec_of_body()
    spec = body["spec"] if set(body) == {"spec"} and isinstance(body["spec"], dict) else body
    with services().sessions() as session:
        return jsonify(shown.validation(session, current_user().id, spec, services().limits))


@api.get("/jobs", responses={"200": JobPage})
def list_jobs(query: JobsQuery) -> Response:
    """Your jobs, newest first."""
    with services().sessions() as session:
        found = views.list_jobs(
            session,
            current_user().id,
            states=states_of(query.state),
            batch=query.batch or None,
            model=query.model or None,
            network=query.lora or None,
            worker=query.worker or None,
            cursor=query.cursor,
            limit=query.limit,
        )
    return page([shown.job(item) for item in found.items], found.next_cursor)


@api.get("/jobs/<id:job_id>", responses={"200": JobDetail})
def show_job(path: JobPath) -> Response:
    """One job with everything; its ETag changes when it does."""
    with services().sessions() as session:
        return with_etag(shown.job(views.job_view(session, current_user().id, path.job_id)))


@api.patch("/jobs/<id:job_id>", responses={"200": JobDetail})
def change_job(path: JobPath, body: JobPatch) -> Response:
    """Move a waiting job to another priority. With If-Match: only if it is as you last saw it."""
    user = current_user()
    with services().sessions() as session:
        check_if_match(shown.job(views.job_view(session, user.id, path.job_id)))
        control.set_priority(session, user.id, path.job_id, body.priority, services().now())
        session.commit()
        view = shown.job(views.job_view(session, user.id, path.job_id))
    notify.job_changed(services(), user.id, path.job_id, view["state"])
    return with_etag(view)


@api.post("/jobs/<id:job_id>:cancel", responses={"200": JobDetail})
def cancel_job(path: JobPath) -> Response:
    """Cancel a job; one that runs ends within a step."""
    return _moved(
        path.job_id, lambda session, owner: control.cancel(session, owner, path.job_id, services().now())
    )


@api.post("/jobs/<id:job_id>:retry", responses={"200": JobDetail})
def retry_job(path: JobPath) -> Response:
    """Queue a failed or cancelled job again."""
    return _moved(
        path.job_id, lambda session, owner: control.retry(session, owner, path.job_id, services().now())
    )


def _moved(job_id: str, move: Any) -> Response:
    user = current_user()
    with services().sessions() as session:
        move(session, user.id)
        session.commit()
        view = shown.job(views.job_view(session, user.id, job_id))
    notify.job_changed(services(), user.id, job_id, view["state"])
    return with_etag(view)


@api.get("/jobs/<id:job_id>/events", responses={"200": JobEventList})
def job_events(path: JobPath) -> Response:
    """Transitions of a job. Asked with `Accept: text/event-stream`: its progress as it happens, until it has ended."""
    user = current_user()
    with services().sessions() as session:
        view = views.job_view(session, user.id, path.job_id)
    if request.accept_mimetypes.best_match(["application/json", "text/event-stream"]) != "text/event-stream":
        return jsonify({"items": view["events"]})
    here = services()

    def now() -> tuple[str, bool]:
        with here.sessions() as session:
            state = views.job_view(session, user.id, path.job_id)
        facts = {name: state[name] for name in ("id", "state", "stage", "step", "worker")}
        facts["steps"] = state["total_steps"]
        return sse.frame(facts, event="job"), State(state["state"]) in TERMINAL

    frames = sse.follow(
        here,
        owner_id=user.id,
        topics={"jobs"},
        after=sse.last_event_id(),
        job_id=path.job_id,
        truth=now,
        gone=sse.hung_up(),
    )
    return sse.stream(here, user.id, frames)


@api.get(
    "/jobs/<id:job_id>/preview",
    responses={"200": {"content": {"image/webp": {"schema": {"type": "string"}}}}},
)
def job_preview(path: JobPath) -> Response:
    """The picture as it looks now, small, while the job runs."""
    with services().sessions() as session:
        views.job_view(session, current_user().id, path.job_id)
    data = events.get_preview(services().redis, path.job_id)
    if data is None:
        raise NotFound("there is no preview", "one appears while the job samples", code="no_preview")
    response = Response(data, mimetype="image/webp")
    response.add_etag()
    return conditional(response)
