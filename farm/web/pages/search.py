"""Search from the top bar: pictures by their prompts, adapters by name and trigger words, jobs by id."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request
from werkzeug.wrappers import Response

from farm.jobs import adapters, views
from farm.web.api import views as shown
from farm.web.auth import current_user
from farm.web.services import services

blueprint = Blueprint("search", __name__)

#: kinds of ids that lead straight to a page
PAGE_OF = {"job": "/jobs", "image": "/images", "img": "/images", "batch": "/batches"}


@blueprint.get("/search")
def page() -> str | Response:
    asked = request.args.get("q", "").strip()
    kind = asked.partition("_")[0]
    if kind in PAGE_OF and len(asked) > len(kind) + 20:
        return redirect(f"{PAGE_OF[kind]}/{asked}")
    owner = current_user().id
    with services().sessions() as session:
        found = adapters.list_adapters(session, search=asked, limit=12).items if asked else ()
        images = views.list_images(session, owner, search=asked, limit=40).items if asked else ()
    return render_template(
        "pages/search.html", q=asked, adapters=[shown.adapter(item) for item in found], images=images
    )
