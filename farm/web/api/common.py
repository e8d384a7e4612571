"""What every resource of the API shares: blueprint, pages of a list, ETags, JSON of our types."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, cast
from urllib.parse import urlencode

from flask import Response, current_app, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask_openapi.blueprint import APIBlueprint
from pydantic import BaseModel, ConfigDict, Field

from farm.errors import BadRequest, FarmError
from farm.web.api.schema import ProblemDetails

PREFIX = "/api/v1"
MAX_PAGE = 200

Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Most items of one page.")]
Cursor = Annotated[str, Field(max_length=200, description="`next_cursor` of the page before.")]


class Strict(BaseModel):
    """Input: a field that we do not know is a mistake, not noise."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Strict):
    """Which part of a list."""

    cursor: Cursor = ""
    limit: Limit = 50


class Json(DefaultJSONProvider):
    """Times as RFC 3339 in UTC; keys in the order in which they were put."""

    sort_keys = False
    ensure_ascii = False
    compact = True

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """JSON as the standard has it: no NaN, no number that overflows."""
        return json.loads(s, parse_constant=_no_constant, parse_float=_finite, **kwargs)

    @staticmethod
    def default(o: Any) -> Any:
        if isinstance(o, datetime):
            return o.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return DefaultJSONProvider.default(o)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


def _problem_response(description: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def blueprint(name: str, about: str) -> APIBlueprint:
    """A blueprint of the API with what all its operations may answer."""
    return APIBlueprint(
        f"api_{name}",
        __name__,
        url_prefix=PREFIX,
        abp_tags=[{"name": name, "description": about}],
        abp_security=[{"key": []}],
        abp_responses={
            "401": _problem_response("No valid API key."),
            "422": _problem_response("The input is wrong; `errors` says where and what would be right."),
            "503": _problem_response(
                "Database, store or broker is away; try again after `Retry-After` seconds."
            ),
            "default": _problem_response("Any other mistake, by its status."),
        },
        operation_id_callback=lambda *, name, path, method: name,
    )


def json_body() -> Any:
    """The JSON of this request's body.

    Raises:
        BadRequest: it is no JSON.
    """
    try:
        return current_app.json.loads(request.get_data(cache=True))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}", "send a JSON object", code="malformed") from None


def storable_body() -> Any:
    """As `json_body`, where every text can be written into a database.

    Raises:
        BadRequest: it is no JSON, or holds NUL or half a surrogate pair.
    """
    body = json_body()
    try:
        text = json.dumps(body, ensure_ascii=False)
        text.encode()
    except (UnicodeEncodeError, RecursionError):
        raise BadRequest(
            "the body holds half of a surrogate pair", "remove it", code="bad_character"
        ) from None
    if "\\u0000" in text:
        raise BadRequest("the body holds a NUL character", "remove it", code="bad_character")
    return body


def declared_json(*, storable: bool = True) -> Any:
    """The JSON body of an operation that is documented to take one.

    Raises:
        FarmError: another media type; broken JSON.
    """
    if not request.is_json:
        raise FarmError(
            f"the body is {request.mimetype or 'of no declared type'}",
            "send it with Content-Type: application/json",
            code="unsupported_media_type",
        )
    return storable_body() if storable else json_body()


def page(items: Sequence[Any], next_cursor: str | None) -> Response:
    """One page of a list, with the link to the next one in the body and in the header."""
    response = jsonify({"items": list(items), "next_cursor": next_cursor})
    if next_cursor:
        query = {**request.args.to_dict(flat=False), "cursor": [next_cursor]}
        response.headers["Link"] = f'<{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
    return response


def with_etag(body: dict[str, Any], status: int = 200) -> Response:
    """`body` with a weak ETag of its content; 304 when the client has it already."""
    response = jsonify(body)
    response.status_code = status
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:24], weak=True)
    return conditional(response)


def conditional(response: Response) -> Response:
    """`response`, or 304 when the client has what its ETag names."""
    return cast(Response, response.make_conditional(request))


def check_if_match(body: dict[str, Any]) -> None:
    """Refuse a change that was decided on an older state of `body` (only when the client sent If-Match).

    Raises:
        FarmError: the thing has changed since.
    """
    if not request.if_match:
        return
    etag = with_etag(body).get_etag()[0]
    if etag is None or not request.if_match.contains_weak(etag):
        raise FarmError(
            "it has changed since you read it", "read it again, then decide", code="precondition_failed"
        )


def flag(name: str) -> bool:
    """A yes-or-no query parameter.

    Raises:
        BadRequest: neither.
    """
    text = request.args.get(name, "false").lower()
    if text in {"true", "1", "yes"}:
        return True
    if text in {"false", "0", "no", ""}:
        return False
    raise BadRequest(f"{name}: neither true nor false", f"found '{text}'", code="bool_parsing")
