"""Adapters over HTTP, under the name that artists use: /loras."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask import Response, jsonify, request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from farm.errors import BadRequest, FarmError, NotFound
from farm.ids import new_id
from farm.jobs import adapters
from farm.jobs.adapter_names import adapter_name
from farm.store import keys
from farm.web import pictures, uploads
from farm.web.api import views as shown
from farm.web.api.catalog_schema import AdapterPage, AdapterView, UploadBegun
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
from farm.web.auth import current_user
from farm.web.services import services

api = blueprint("loras", "Adapters: LoRA, LoCon, LoHa, LoKr, DoRA and their kin.")

Word = Annotated[str, Field(min_length=1, max_length=200)]

UPLOAD_BODY = {
    "required": True,
    "description": "JSON begins an upload straight into the store; a form sends a small file with the request itself.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["file_name", "size"],
                "properties": {
                    "name": {"type": "string", "description": "Name in tags; the file's name when absent."},
                    "file_name": {"type": "string", "minLength": 1, "maxLength": 255},
                    "size": {"type": "integer", "minimum": 9},
                },
                "additionalProperties": False,
            }
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "name": {"type": "string"},
                },
            }
        },
    },
}
HEADER = {"content": {"application/json": {"schema": {"type": "object"}}}}
PICTURE = {"content": {"image/webp": {"schema": {"type": "string"}}}}


class LoraPath(BaseModel):
    lora_id: str = Field(description="Id or name.")


class LorasQuery(PageQuery):
    q: str = Field("", max_length=200, description="Words to search for.")
    base: str = Field("", description="Comma-separated base models, such as sdxl.")
    type: str = Field("", description="Comma-separated types, such as lora,locon.")
    sort: Literal["name", "newest", "size", "uses"] = "name"


class UploadIn(Strict):
    name: str = Field("", max_length=200)
    file_name: str = Field(min_length=1, max_length=255)
    size: int = Field(strict=True, ge=0)


class LoraPatch(Strict):
    name: str | None = Field(None, min_length=1, max_length=100)
    trigger_words: list[Word] | None = Field(None, max_length=64)
    default_strength: float | None = Field(None, ge=-100, le=100)
    notes: str | None = Field(None, max_length=20_000)


def find_view(session: Session, id_or_name: str) -> dict[str, Any]:
    """The adapter of this id, else of this name.

    Raises:
        NotFound: neither.
    """
    try:
        return adapters.adapter_view(session, id_or_name)
    except NotFound:
        found = adapters.find(session, [id_or_name]).get(id_or_name.casefold())
        if found is None:
            raise NotFound(
                f"no adapter '{id_or_name}'", adapters.near_names(session, id_or_name), code="no_adapter"
            ) from None
        return adapters.adapter_view(session, found.id)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@api.get("/loras", responses={"200": AdapterPage})
def list_loras(query: LorasQuery) -> Response:
    """The farm's adapters."""
    with services().sessions() as session:
        found = adapters.list_adapters(
            session,
            search=query.q,
            base=_words(query.base),
            type=_words(query.type),
            sort=query.sort,
            cursor=query.cursor,
            limit=query.limit,
        )
    return page([shown.adapter(item) for item in found.items], found.next_cursor)


@api.post("/loras", request_body=UPLOAD_BODY, responses={"201": AdapterView, "202": UploadBegun})
def upload_lora() -> tuple[Response, int]:
    """Begin an upload (JSON), or send a small file at once (form). A file is inspected before it is accepted."""
    user = current_user()
    if request.mimetype == "multipart/form-data":
        return _receive(user.id)
    asked = UploadIn.model_validate(declared_json())
    with services().sessions() as session:
        begun = uploads.begin(
            services(), session, user.id, name=asked.name, file_name=asked.file_name, size=asked.size
        )
        session.commit()
    target = {"method": begun.method, "url": begun.url, "headers": begun.headers}
    return jsonify({"id": begun.id, "upload": target}), 202


def _receive(owner_id: str) -> tuple[Response, int]:
    file = request.files.get("file")
    if file is None:
        raise BadRequest("the form has no file", "send it in the field `file`", code="missing")
    adapter_id = uploads.receive(
        services(), owner_id, file.stream, name=request.form.get("name", ""), file_name=file.filename or ""
    )
    return _created(adapter_id)


def _created(adapter_id: str) -> tuple[Response, int]:
    with services().sessions() as session:
        response = jsonify(shown.adapter(adapters.adapter_view(session, adapter_id)))
    response.headers["Location"] = f"{PREFIX}/loras/{adapter_id}"
    return response, 201


@api.post("/loras/<name:lora_id>:complete", responses={"201": AdapterView})
def complete_upload(path: LoraPath) -> tuple[Response, int]:
    """Inspect an uploaded file and make it an adapter; a file that is none is deleted."""
    return _created(uploads.complete(services(), current_user().id, path.lora_id))


@api.get("/loras/<name:lora_id>", responses={"200": AdapterView})
def show_lora(path: LoraPath) -> Response:
    """One adapter, by id or name."""
    with services().sessions() as session:
        return with_etag(shown.adapter(find_view(session, path.lora_id)))


@api.get("/loras/<name:lora_id>/metadata", responses={"200": HEADER})
def show_lora_metadata(path: LoraPath) -> Response:
    """What stands in the file's header."""
    with services().sessions() as session:
        view = find_view(session, path.lora_id)
        row = adapters.find(session, [view["name"]])[view["name"].casefold()]
    return with_etag(dict(row.info))


@api.patch("/loras/<name:lora_id>", responses={"200": AdapterView})
def change_lora(path: LoraPath, body: LoraPatch) -> Response:
    """Rename, set trigger words, default strength or notes; what is absent stays."""
    with services().sessions() as session:
        view = find_view(session, path.lora_id)
        check_if_match(shown.adapter(view))
        changed = adapters.patch_adapter(
            session,
            current_user().id,
            view["id"],
            name=None if body.name is None else adapter_name(body.name, ""),
            trigger_words=body.trigger_words,
            default_strength=body.default_strength,
            notes=body.notes,
            now=services().now(),
        )
        session.commit()
    return with_etag(shown.adapter(changed))


@api.delete("/loras/<name:lora_id>", responses={"204": None})
def delete_lora(path: LoraPath) -> tuple[str, int]:
    """Remove an adapter; jobs that were submitted with it still render."""
    with services().sessions() as session:
        adapters.delete_adapter(
            session, current_user().id, find_view(session, path.lora_id)["id"], services().now()
        )
        session.commit()
    return "", 204


@api.get("/loras/<name:lora_id>/preview", responses={"200": PICTURE})
def show_lora_preview(path: LoraPath) -> Response:
    """The adapter's preview picture."""
    with services().sessions() as session:
        key = find_view(session, path.lora_id).get("preview_key")
    if not key:
        raise NotFound("there is no preview", "PUT a picture to this address", code="no_preview")
    response = Response(services().store.get_bytes(key), mimetype="image/webp")
    response.add_etag()
    response.headers["Cache-Control"] = "private, max-age=60"
    return conditional(response)


@api.put("/loras/<name:lora_id>/preview", responses={"204": None})
def change_lora_preview(path: LoraPath) -> tuple[str, int]:
    """Give an adapter a preview: PNG, JPEG or WebP; it is made small and loses its metadata."""
    if not request.mimetype.startswith("image/"):
        raise FarmError(
            "the body is no picture",
            "send image/png, image/jpeg or image/webp",
            code="unsupported_media_type",
        )
    request.max_content_length = pictures.MAX_PICTURE_BYTES
    preview = pictures.thumbnail(request.get_data())
    now = services().now()
    with services().sessions() as session:
        view = find_view(session, path.lora_id)
        # every picture has a name of its own, so that browsers may keep it and no other adapter shares it
        key = keys.preview(new_id("preview", now))
        adapters.set_preview(session, current_user().id, view["id"], key)
        services().store.put_bytes(key, preview, "image/webp")
        session.commit()
    if old := view.get("preview_key"):
        services().store.delete(old)
    return "", 204
