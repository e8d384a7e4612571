"""Networks: the farm's adapters as cards, uploads, and the page of one adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, render_template, request
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response

from farm.errors import BadRequest, FarmError, Problem
from farm.jobs import adapters, views
from farm.jobs.adapter_names import adapter_name
from farm.store import keys
from farm.web import pictures, uploads
from farm.web.api import views as shown
from farm.web.api.adapters import find_view
from farm.web.auth import current_user
from farm.web.pages import acts, words
from farm.web.services import services

blueprint = Blueprint("networks", __name__)

UPLOADS = {"networks.upload", "networks.preview"}
SORTS = {"name": "by name", "newest": "newest first", "uses": "most used", "size": "largest first"}
#: numbers in metadata that are nothing to read
MAX_METADATA = 60


@blueprint.url_value_preprocessor
def allow_files(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Let a form bring its file; before anything else reads the form."""
    if endpoint in UPLOADS:
        request.max_content_length = services().max_upload_bytes


@blueprint.get("/networks")
def page() -> str:
    return render_template("pages/networks.html", **_list())


def _list() -> dict[str, Any]:
    """Adapters that match the search `?q=`: words, `base:` and `type:` words, and `-words` that must not occur."""
    asked = request.args.get("q", "")
    plain, base, type_ = split_search(asked)
    sort = request.args.get("sort", "name")
    with services().sessions() as session:
        found = adapters.list_adapters(
            session,
            search=plain,
            base=base,
            type=type_,
            sort=sort if sort in SORTS else "name",
            cursor=request.args.get("cursor", ""),
            limit=60,
        )
    return {
        "adapters": [shown.adapter(item) for item in found.items],
        "next_cursor": found.next_cursor,
        "q": asked,
        "sort": sort,
        "sorts": SORTS,
    }


def split_search(text: str) -> tuple[str, Sequence[str], Sequence[str]]:
    """Words, base models and types of a search; `base:` takes a key or the usual name.

    >>> split_search("base:sd1 type:LoKr watercolour -anime")
    ('watercolour -anime', ['sd1'], ['lokr'])
    """
    plain: list[str] = []
    base: list[str] = []
    type_: list[str] = []
    for word in text.split():
        key, _, value = word.partition(":")
        if key.lower() == "base" and value:
            base += [
                name for name, label in words.BASE_MODELS.items() if _same(value, name) or _same(value, label)
            ] or [value]
        elif key.lower() == "type" and value:
            type_.append(value.lower())
        else:
            plain.append(word)
    return " ".join(plain), base, type_


def _same(one: str, other: str) -> bool:
    return re.sub(r"[\W_]", "", one).lower() == re.sub(r"[\W_]", "", other).lower()


@blueprint.post("/networks")
def upload() -> str | Response | tuple[str, int]:
    """An upload without scripts: the file comes with the form."""
    file = request.files.get("file")
    try:
        if file is None or not file.filename:
            raise BadRequest("no file was chosen", "choose a .safetensors file")
        adapter_id = uploads.receive(
            services(),
            current_user().id,
            file.stream,
            name=request.form.get("name", ""),
            file_name=file.filename,
        )
        with services().sessions() as session:
            name = adapters.adapter_view(session, adapter_id)["name"]
        return acts.done("Uploaded.", back=f"/networks/{name}")
    except BadRequest as error:
        problem = Problem(code=error.code, message=error.message, hint=error.hint)
        return render_template("pages/networks.html", problem=problem, **_list()), 422


@blueprint.get("/networks/<name:name>")
def adapter(name: str) -> str:
    with services().sessions() as session:
        return _adapter(find_view(session, name))


def _adapter(view: dict[str, Any], problem: FarmError | None = None) -> str:
    with services().sessions() as session:
        images = views.list_images(session, current_user().id, network=view["name"], limit=24).items
        row = adapters.find(session, [view["name"]])[view["name"].casefold()]
    facts = row.info.get("metadata") or {}
    return render_template(
        "pages/network.html",
        adapter=shown.adapter(view),
        images=images,
        metadata=sorted(facts.items())[:MAX_METADATA],
        mine=view["owner"] == current_user().id,
        problem=problem,
    )


@blueprint.post("/networks/<name:name>")
def change(name: str) -> str | Response | tuple[str, int]:
    """Keep what was typed about an adapter: trigger words, default strength, notes, name."""
    with services().sessions() as session:
        view = find_view(session, name)
        try:
            changed = adapters.patch_adapter(
                session,
                current_user().id,
                view["id"],
                name=adapter_name(request.form.get("name", ""), "") or None,
                trigger_words=[word.strip() for word in request.form.get("trigger_words", "").split(",")],
                default_strength=_strength(request.form.get("default_strength", "")),
                notes=request.form.get("notes", "")[:20_000],
                now=services().now(),
            )
            session.commit()
        except FarmError as error:
            session.rollback()
            if "HX-Request" in request.headers:
                raise
            return _adapter(find_view(session, name), error), 422
    if changed["name"] != name:
        return acts.gone("Saved.", to=f"/networks/{changed['name']}")
    return acts.done("Saved.", back=f"/networks/{changed['name']}")


def _strength(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"{text!r} is no strength", "write a number such as 0.8") from None


@blueprint.post("/networks/<name:name>/preview")
def preview(name: str) -> Response:
    """Take a picture as the adapter's preview."""
    file = request.files.get("file")
    if file is None or not file.filename:
        raise BadRequest("no picture was chosen", "choose a PNG, JPEG or WebP")
    with services().sessions() as session:
        view = find_view(session, name)
        key = keys.preview(view["version"])
        services().store.put_bytes(key, pictures.thumbnail(file.read()), "image/webp")
        adapters.set_preview(session, current_user().id, view["id"], key)
        session.commit()
    return acts.done(f"The preview is {secure_filename(file.filename)}.", back=f"/networks/{name}")


@blueprint.post("/networks/<name:name>/delete")
def delete(name: str) -> Response:
    with services().sessions() as session:
        adapters.delete_adapter(session, current_user().id, find_view(session, name)["id"], services().now())
        session.commit()
    return acts.gone("The adapter is gone.", to="/networks")
