"""Views of `farm.jobs` as the API shows them: with addresses, without names of objects in the store."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy.orm import Session

from farm.errors import BadRequest, Problem
from farm.jobs.estimate import estimate
from farm.jobs.limits import Limits
from farm.jobs.prepare import Prepared, explain, prepare
from farm.web.api.common import PREFIX


def image_url(image_id: str) -> str:
    """Where a picture's bytes are; the address does not expire, what it redirects to does."""
    return f"{PREFIX}/images/{image_id}/content"


def poster_url(image: dict[str, Any]) -> str | None:
    """Where the still of a video is."""
    return f"{PREFIX}/images/{image['id']}/poster" if image["media_type"].startswith("video/") else None


def job(view: dict[str, Any]) -> dict[str, Any]:
    images = [
        {**image, "url": image_url(image["id"]), "poster": poster_url(image)}
        for image in view.get("images", ())
    ]
    return {**view, "images": images}


def image(view: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in view.items() if name not in {"object_key", "poster_key"}}
    return {**shown, "url": image_url(view["id"]), "poster": poster_url(view)}


def adapter(view: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in view.items() if name not in {"preview_key", "tensors"}}
    has_preview = bool(view.get("preview_key"))
    return {**shown, "preview": f"{PREFIX}/loras/{view['id']}/preview" if has_preview else None}


def prepared(session: Session, found: Prepared) -> dict[str, Any]:
    """A checked spec with what it means: the answer to a dry run."""
    return {
        "spec": found.spec.model_dump(mode="json"),
        "prompt": found.clean_prompt,
        "model": found.model_name,
        "networks": [network.as_dict() for network in found.networks],
        "warnings": list(found.warnings),
        "explain": explain(session, found),
        "estimate": asdict(estimate(session, found)),
    }


def validation(session: Session, owner_id: str, spec: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Whether `spec` would be accepted, and what it means or what is wrong with it; never an error."""
    try:
        found = prepare(session, owner_id, spec, limits=limits)
        return {"valid": True, "errors": [], **prepared(session, found)}
    except BadRequest as error:
        problems = error.problems or (Problem(code=error.code, message=error.message, hint=error.hint),)
        return {"valid": False, "errors": [problem.as_dict() for problem in problems]}
