"""Assembles the API: every resource, its OpenAPI document, and the rule for bodies that are to be JSON."""

from __future__ import annotations

import inspect
from typing import Any

from flask import Response, jsonify, request
from flask_openapi.openapi import OpenAPI

from farm.web.api import adapters, batches, events, extractions, fleet, images, jobs, people, presets
from farm.web.api.common import PREFIX, Json, declared_json
from farm.web.auth import public

RESOURCES = (jobs, batches, adapters, extractions, images, fleet, people, presets, events)


def register(app: OpenAPI) -> None:
    """Add the API to `app`."""
    app.json = Json(app)
    for resource in RESOURCES:
        app.register_api(resource.api)
    _add_document(app)
    _check_declared_json(app)


def _add_document(app: OpenAPI) -> None:
    @app.route(f"{PREFIX}/openapi.json", methods=["GET"], endpoint="api_document")
    @public
    def document() -> Response:
        return jsonify(_of_the_api(app.api_doc))


def _of_the_api(document: dict[str, Any]) -> dict[str, Any]:
    """`document` without pages, which register with the same application."""
    paths = {path: item for path, item in document["paths"].items() if path.startswith(PREFIX)}
    return {**document, "paths": paths}


def _check_declared_json(app: OpenAPI) -> None:
    """Broken JSON is told as such; flask-openapi would take it for an empty body."""
    takes_json = {
        endpoint
        for endpoint, view in app.view_functions.items()
        if "body" in getattr(inspect.unwrap(view), "__annotations__", {})
    }

    @app.before_request
    def check() -> None:
        if request.endpoint in takes_json:
            declared_json()
