"""Finished pictures over HTTP."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from flask import Response, jsonify, redirect, request
from pydantic import BaseModel, Field
from werkzeug.wrappers import Response as BaseResponse

from farm.errors import BadRequest, NotFound
from farm.jobs import metadata, views
from farm.web import content, pictures
from farm.web.api import views as shown
from farm.web.api.catalog_schema import ImageMetadata, ImagePage, ImageView, InspectedImage
from farm.web.api.common import PageQuery, Strict, blueprint, check_if_match, conditional, page, with_etag
from farm.web.auth import current_user
from farm.web.security import host_name
from farm.web.services import services

api = blueprint("images", "Finished pictures.")

GET_SECONDS = 300
ENDINGS = {"image/png": ".png", "video/webm": ".webm"}
POSTER_TYPE = "image/webp"
PNG = {"content": {"image/png": {"schema": {"type": "string"}}}}
BYTES = {"content": {kind: {"schema": {"type": "string"}} for kind in ("image/png", "video/webm")}}
PART = {**BYTES, "description": "The part that Range asked for."}
REDIRECT = {"description": "Where the bytes are."}


class ImagePath(BaseModel):
    image_id: str


class ImagesQuery(PageQuery):
    job: str = Field("", description="Id of a job.")
    batch: str = Field("", description="Id of a batch.")
    lora: str = Field("", description="Name of an adapter.")
    model: str = Field("", description="Name of a model.")
    starred: bool | None = Field(None, description="Only starred ones, or only the others.")
    q: str = Field("", max_length=200, description="Words in the prompt.")


class ContentQuery(Strict):
    download: bool = Field(False, description="Have browsers save it.")
    stream: bool = Field(False, description="Send it from here instead of redirecting to the store.")


class ImagePatch(Strict):
    starred: bool = Field(strict=True)


@api.get("/images", responses={"200": ImagePage})
def list_images(query: ImagesQuery) -> Response:
    """Your pictures, newest first."""
    with services().sessions() as session:
        found = views.list_images(
            session,
            current_user().id,
            job=query.job or None,
            batch=query.batch or None,
            network=query.lora or None,
            model=query.model or None,
            starred=query.starred,
            search=query.q,
            cursor=query.cursor,
            limit=query.limit,
        )
    return page([shown.image(item) for item in found.items], found.next_cursor)


def _view(image_id: str) -> dict[str, Any]:
    with services().sessions() as session:
        return views.image_view(session, current_user().id, image_id)


@api.get("/images/<id:image_id>", responses={"200": ImageView})
def show_image(path: ImagePath) -> Response:
    """One picture with the facts of its making."""
    return with_etag(shown.image(_view(path.image_id)))


@api.get("/images/<id:image_id>/content", responses={"200": BYTES, "206": PART, "302": REDIRECT})
def show_content(path: ImagePath, query: ContentQuery) -> BaseResponse:
    """The file itself: a redirect to the store, or the bytes where the store is out of the browser's reach."""
    view = _view(path.image_id)
    name = f"{view['id']}{ENDINGS[view['media_type']]}" if query.download else None
    if not query.stream and store_is_in_reach(request.host, services().store_origin):
        return _redirect(view["object_key"], view["media_type"], name)
    return content.answer(
        services().store,
        view["object_key"],
        size=view["size"],
        sha256=view["sha256"],
        media_type=view["media_type"],
        name=name,
    )


@api.get(
    "/images/<id:image_id>/poster",
    responses={"200": {"content": {"image/webp": {"schema": {"type": "string"}}}}, "302": REDIRECT},
)
def show_poster(path: ImagePath) -> BaseResponse:
    """The still of a video: its middle frame."""
    view = _view(path.image_id)
    key = view["poster_key"]
    if key is None:
        raise NotFound("a picture has no still", "ask for its content", code="no_poster")
    if store_is_in_reach(request.host, services().store_origin):
        return _redirect(key, POSTER_TYPE, None)
    response = Response(services().store.get_bytes(key), mimetype=POSTER_TYPE)
    response.set_etag(f"{view['sha256']}-poster")
    response.headers["Cache-Control"] = content.FOREVER
    return conditional(response)


def _redirect(key: str, media_type: str, name: str | None) -> BaseResponse:
    url = services().store.presigned_get(key, seconds=GET_SECONDS, filename=name, content_type=media_type)
    response: BaseResponse = redirect(url)
    # shorter than the address is valid, so that nobody is sent to one that has expired
    response.headers["Cache-Control"] = f"private, max-age={GET_SECONDS // 2}"
    return response


def store_is_in_reach(host: str, store_origin: str) -> bool:
    """Whether a browser that reached us as `host` can reach the store: one on loopback only from this machine.

    >>> store_is_in_reach("127.0.0.1:8484", "http://127.0.0.1:8333")
    True
    >>> store_is_in_reach("farm.lan", "http://127.0.0.1:8333"), store_is_in_reach("farm.lan", "https://s3.lan")
    (False, True)
    """
    if not store_origin:
        return True
    return not _is_loopback(urlsplit(store_origin).hostname or "") or _is_loopback(
        host_name(host).strip("[]")
    )


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


@api.get("/images/<id:image_id>/metadata", responses={"200": ImageMetadata})
def show_image_metadata(path: ImagePath) -> Response:
    """What stands in the file: our JSON, and the text that other programs read."""
    info = _view(path.image_id)["info"]
    return with_etag({"info": info, "parameters": metadata.a1111_text(info)})


@api.patch("/images/<id:image_id>", responses={"200": ImageView})
def change_image(path: ImagePath, body: ImagePatch) -> Response:
    """Star a picture, or not."""
    user = current_user()
    with services().sessions() as session:
        check_if_match(shown.image(views.image_view(session, user.id, path.image_id)))
        views.patch_image(session, user.id, path.image_id, starred=body.starred)
        session.commit()
        view = views.image_view(session, user.id, path.image_id)
    return with_etag(shown.image(view))


@api.delete("/images/<id:image_id>", responses={"204": None})
def delete_image(path: ImagePath) -> tuple[str, int]:
    """Take a picture out of all lists."""
    with services().sessions() as session:
        views.delete_image(session, current_user().id, path.image_id)
        session.commit()
    return "", 204


@api.post("/images:inspect", request_body={"required": True, **PNG}, responses={"200": InspectedImage})
def inspect_image() -> Response:
    """The job that a PNG was made from: ours, or one with the `parameters` text of AUTOMATIC1111 and SD.Next."""
    request.max_content_length = pictures.MAX_PICTURE_BYTES
    request.max_form_memory_size = pictures.MAX_PICTURE_BYTES
    file = request.files.get("file") if request.mimetype == "multipart/form-data" else None
    spec = metadata.read_png(file.read() if file is not None else request.get_data())
    if spec is None:
        raise BadRequest(
            "this picture does not say how it was made",
            "send a PNG as Farm, AUTOMATIC1111 or SD.Next saved it",
            code="no_metadata",
        )
    return jsonify({"spec": spec})
