"""Requests with an Idempotency-Key: done once, answered alike each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Response, current_app, request
from sqlalchemy.orm import Session

from farm.errors import BadRequest, Conflict
from farm.jobs import idempotency
from farm.web.services import services

MAX_KEY = 200

#: does the work in the given session, without committing; returns status, body, headers
Act = Callable[[Session], tuple[int, dict[str, Any], dict[str, str]]]


def key_of_request() -> str:
    """The header `Idempotency-Key`, or nothing.

    Raises:
        BadRequest: it is too long, or not printable.
    """
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_KEY or not key.isprintable():
        raise BadRequest(
            f"the Idempotency-Key has {len(key)} characters or unprintable ones",
            f"use at most {MAX_KEY}, such as a UUID",
            code="bad_idempotency_key",
        )
    return key


def once(owner_id: str, content: bytes, act: Act) -> tuple[Response, bool]:
    """The answer of `act`, committed; or, for a request that came before, the answer of then. True when it is new.

    `content` stands for the request's body; the same key with other content is refused.

    Raises:
        Conflict: the key was used for another request.
    """
    key = key_of_request()
    here = f"{request.path}?{request.query_string.decode('latin-1')}"
    digest = idempotency.request_hash(request.method, here, content) if key else ""
    with services().sessions() as session:
        if key and (found := idempotency.recall(session, owner_id, key, digest)):
            return _replayed(found), False
        status, body, headers = act(session)
        text = current_app.json.dumps(body)
        if key:
            kept = {"body": json.loads(text), "headers": headers}
            try:
                idempotency.remember(session, owner_id, key, digest, status, kept, services().now())
            except Conflict:
                session.rollback()
                found = idempotency.recall(session, owner_id, key, digest)
                if found is None:
                    raise
                return _replayed(found), False
        session.commit()
    return Response(text, status, headers, content_type="application/json"), True


def _replayed(found: idempotency.Remembered) -> Response:
    text = current_app.json.dumps(found.response["body"])
    headers = {**found.response["headers"], "Idempotent-Replayed": "true"}
    return Response(text, found.status, headers, content_type="application/json")
