"""Presets over HTTP."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify
from pydantic import BaseModel, Field

from farm.web import presets
from farm.web.api.catalog_schema import PresetList, PresetView
from farm.web.api.common import Strict, blueprint
from farm.web.auth import current_user
from farm.web.services import services

api = blueprint("presets", "Named parts of a job's spec.")


class PresetIn(Strict):
    name: str = Field(min_length=1, max_length=100)
    spec: dict[str, Any] = Field(description="Any fields of a job.")


class PresetPath(BaseModel):
    preset_id: str


@api.get("/presets", responses={"200": PresetList})
def list_presets() -> Response:
    """Your presets, by name."""
    with services().sessions() as session:
        return jsonify({"items": presets.list_presets(session, current_user().id)})


@api.post("/presets", responses={"201": PresetView})
def save_preset(body: PresetIn) -> tuple[Response, int]:
    """Keep a preset; one of the same name is replaced."""
    with services().sessions() as session:
        saved = presets.save_preset(session, current_user().id, body.name, body.spec, services().now())
        session.commit()
    return jsonify(saved), 201


@api.delete("/presets/<id:preset_id>", responses={"204": None})
def delete_preset(path: PresetPath) -> tuple[str, int]:
    """Forget a preset."""
    with services().sessions() as session:
        presets.delete_preset(session, current_user().id, path.preset_id)
        session.commit()
    return "", 204
