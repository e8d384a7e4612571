"""A stored file as an answer of ours, whole or the part that a player asks for (RFC 9110, section 14)."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from farm.store.s3 import Store
from farm.web import errors

#: a result's bytes never change
FOREVER = "private, max-age=31536000, immutable"
CHUNK_BYTES = 1024 * 1024


def answer(
    store: Store, key: str, *, size: int, sha256: str, media_type: str, name: str | None
) -> BaseResponse:
    """The object, with its hash as ETag. A single range is answered with 206, one behind the end with 416; several are
    answered with the whole. `name` has browsers save it."""
    response = Response(mimetype=media_type)
    response.set_etag(sha256)
    response.headers["Cache-Control"] = FOREVER
    response.headers["Accept-Ranges"] = "bytes"
    if name is not None:
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    if sha256 in request.if_none_match:
        response.status_code = 304
        return response
    begin, end = 0, size
    held = request.if_range
    stands = held.etag in (None, sha256) and held.date is None
    asked = request.range if stands else None
    if asked is not None and asked.units == "bytes" and len(asked.ranges) == 1:
        found = asked.range_for_length(size)
        if found is None:
            refusal = errors.answer(
                416, "bad_range", f"the file has {size} bytes, which the range does not meet"
            )
            refusal.headers["Content-Range"] = f"bytes */{size}"
            return refusal
        begin, end = found
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    response.content_length = end - begin
    if request.method != "HEAD":
        response.response = _pieces(store, key, begin, end)
    return response


def _pieces(store: Store, key: str, begin: int, end: int) -> Iterator[bytes]:
    for at in range(begin, end, CHUNK_BYTES):
        yield store.get_range(key, at, min(CHUNK_BYTES, end - at))
