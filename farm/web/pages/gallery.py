"""Pictures: the gallery with its filters, the page of one picture, its star."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, render_template, request
from werkzeug.wrappers import Response

from farm.jobs import adapters, metadata, models, views
from farm.web.auth import current_user
from farm.web.pages import acts
from farm.web.services import services

blueprint = Blueprint("gallery", __name__)

PAGE = 40


@blueprint.get("/gallery")
def page() -> str:
    """Pictures, newest first; the filters live in the address."""
    context = _pictures()
    with services().sessions() as session:
        context["models"] = [model["name"] for model in models.list_models(session)]
        context["adapters"] = adapters.names(session)
    return render_template("pages/gallery.html", **context)


@blueprint.get("/gallery/more")
def more() -> str:
    """The next pictures of the same filters."""
    return render_template("parts/pictures.html", **_pictures())


def _pictures() -> dict[str, Any]:
    asked = {name: request.args.get(name, "") for name in ("q", "model", "lora", "starred", "batch")}
    with services().sessions() as session:
        found = views.list_images(
            session,
            current_user().id,
            batch=asked["batch"] or None,
            network=asked["lora"] or None,
            model=asked["model"] or None,
            starred=True if asked["starred"] else None,
            search=asked["q"],
            cursor=request.args.get("cursor", ""),
            limit=PAGE,
        )
    query = {name: value for name, value in asked.items() if value}
    following = urlencode({**query, "cursor": found.next_cursor}) if found.next_cursor else ""
    return {"images": found.items, "asked": asked, "filtered": bool(query), "following": following}


@blueprint.get("/images/<id:image_id>")
def image(image_id: str) -> str:
    """One picture with everything that is known of its making."""
    with services().sessions() as session:
        view = views.image_view(session, current_user().id, image_id)
        siblings = views.list_images(session, current_user().id, job=view["job"], limit=64).items
    ordered = sorted(siblings, key=lambda item: item["index"])
    at = next((place for place, item in enumerate(ordered) if item["id"] == image_id), 0)
    return render_template(
        "pages/image.html",
        image=view,
        info=view["info"],
        info_json=json.dumps(view["info"], indent=2, ensure_ascii=False),
        parameters=metadata.a1111_text(view["info"]),
        siblings=ordered,
        before=ordered[at - 1] if at > 0 else None,
        after=ordered[at + 1] if at + 1 < len(ordered) else None,
    )


@blueprint.post("/images/<id:image_id>/star")
def star(image_id: str) -> Response:
    """Star a picture, or take its star away."""
    starred = request.form.get("starred") == "true"
    with services().sessions() as session:
        views.patch_image(session, current_user().id, image_id, starred=starred)
        session.commit()
    return acts.done("Starred." if starred else "The star is gone.", back=f"/images/{image_id}")


@blueprint.post("/images/<id:image_id>/delete")
def delete(image_id: str) -> Response:
    with services().sessions() as session:
        views.delete_image(session, current_user().id, image_id)
        session.commit()
    return acts.gone("The picture is gone.", to="/gallery")
