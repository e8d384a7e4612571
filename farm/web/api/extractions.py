"""Extractions over HTTP: one LoRA of several adapters, queued as a job."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from farm.jobs import views
from farm.jobs.extraction import ExtractSpec, parse_extract, submit_extraction
from farm.web import notify
from farm.web.api import views as shown
from farm.web.api.common import PREFIX, blueprint
from farm.web.api.jobs import spec_of_body
from farm.web.api.schema import JobDetail
from farm.web.auth import current_user
from farm.web.idempotent import once
from farm.web.services import services

api = blueprint("extractions", "One LoRA of several adapters.")


def _schema() -> dict[str, Any]:
    """Of the body, without references: it stands inside another document."""
    schema = ExtractSpec.model_json_schema()
    schema["properties"]["networks"]["items"] = schema.pop("$defs")["NetworkAsk"]
    return schema


EXTRACT_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _schema(),
            "example": {"name": "both", "prompt": "<lora:ink:0.8> <lora:gold:0.5>", "rank": 16},
        }
    },
}


@api.post("/loras:extract", request_body=EXTRACT_BODY, responses={"202": JobDetail})
def extract_lora() -> Response:
    """Queue the making of one LoRA out of the adapters of tags or `networks`; its job's `result` links to it."""
    user = current_user()
    asked = parse_extract(spec_of_body())

    def act(session: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        job_id = submit_extraction(
            session, user.id, asked, limits=services().limits, now=services().now(), key_id=user.limited_key
        )
        session.flush()
        view = shown.job(views.job_view(session, user.id, job_id))
        return 202, view, {"Location": f"{PREFIX}/jobs/{job_id}"}

    response, is_new = once(user.id, request.get_data(), act)
    if is_new:
        notify.job_changed(services(), user.id, (response.get_json())["id"], "queued")
    return response
