"""From errors to answers: the table of statuses, RFC 9457 `application/problem+json`, the HTML error page.

Nothing below this module knows of HTTP.
"""

from __future__ import annotations

import errno
import json
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, g, render_template, request
from jinja2 import TemplateNotFound
from pydantic import ValidationError
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from farm.errors import BadRequest, Conflict, FarmError, NotFound, Permanent, Problem, Transient

log = structlog.get_logger(__name__)

STATUS_OF_CLASS: dict[type[FarmError], int] = {
    BadRequest: 422,
    NotFound: 404,
    Conflict: 409,
    Transient: 503,
    Permanent: 500,
    FarmError: 500,
}
#: codes that say more than their class
STATUS_OF_CODE: dict[str, int] = {
    "malformed": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "csrf": 403,
    "precondition_failed": 412,
    "file_too_large": 413,
    "unsupported_media_type": 415,
    "pickle": 415,
    "too_many_requests": 429,
    "too_many_streams": 429,
    "disk_full": 507,
    "store_full": 507,
}
#: codes of errors that Werkzeug raises before a view is reached
CODE_OF_STATUS: dict[int, str] = {
    400: "malformed",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    421: "unknown_host",
    429: "too_many_requests",
    500: "internal",
    503: "transient",
}
HINT_OF_STATUS: dict[int, str] = {
    405: "see the OpenAPI document at /api/v1/openapi.json for the verbs of this address",
    413: "send less at once; adapters go through an upload, long lists through /api/v1/batches",
    415: "send application/json",
    500: "the log of the web process has the details under this request id",
    503: "nothing was changed; try again in a few seconds",
}
RETRY_SECONDS = 2


def status_of(error: FarmError) -> int:
    """The HTTP status for `error`: its code decides, then its class."""
    if error.code in STATUS_OF_CODE:
        return STATUS_OF_CODE[error.code]
    return next(STATUS_OF_CLASS[kind] for kind in type(error).__mro__ if kind in STATUS_OF_CLASS)


def wants_html() -> bool:
    """True for a browser's page request; the API always answers in JSON."""
    if request.path.startswith("/api/"):
        return False
    return "text/html" in request.accept_mimetypes.values()


def answer(
    status: int,
    code: str,
    detail: str,
    *,
    hint: str = "",
    problems: tuple[Problem, ...] = (),
    retry_after: float = 0,
) -> Response:
    """An error as a page for browsers, as `application/problem+json` for everybody else."""
    title = HTTPStatus(status).phrase
    if not problems:
        problems = (Problem(code=code, message=detail, hint=hint),)
    if wants_html():
        response = _page(status, title=title, code=code, detail=detail, hint=hint, problems=problems)
    else:
        body: dict[str, Any] = {
            "type": f"urn:farm:problem:{code}",
            "title": title,
            "status": status,
            "code": code,
            "detail": f"{detail}: {hint}" if hint else detail,
            "instance": request.path,
            "request_id": g.get("request_id", ""),
            "errors": [problem.as_dict() for problem in problems],
        }
        response = Response(json.dumps(body), status, content_type="application/problem+json")
    if retry_after:
        response.headers["Retry-After"] = str(max(1, round(retry_after)))
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="farm"'
    return response


def _page(
    status: int, *, title: str, code: str, detail: str, hint: str, problems: tuple[Problem, ...]
) -> Response:
    try:
        text = render_template(
            "error.html",
            status=status,
            title=title,
            code=code,
            detail=detail,
            hint=hint,
            problems=problems,
            fragment="HX-Request" in request.headers,
            request_id=g.get("request_id", ""),
        )
    except TemplateNotFound:
        return Response(
            f"{status} {title}\n\n{detail}\n{hint}\n", status, content_type="text/plain; charset=utf-8"
        )
    return Response(text, status, content_type="text/html; charset=utf-8")


def pointer_of(location: tuple[int | str, ...]) -> str:
    """A JSON pointer (RFC 6901) of pydantic's `loc`.

    >>> pointer_of(("rows", 3, "a/b"))
    '/rows/3/a~1b'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def problems_of(error: ValidationError) -> tuple[Problem, ...]:
    """Every mistake that pydantic found, with its place, what was found, and what would be right."""
    found: list[Problem] = []
    for item in error.errors(include_url=False):
        location = tuple(part for part in item["loc"] if not _is_union_branch(part))
        name = str(location[-1]) if location else ""
        message = item["msg"][0].lower() + item["msg"][1:] if item["msg"] else item["type"]
        value = item.get("input")
        shown = (
            "" if isinstance(value, dict | list) or item["type"] == "missing" else f"found {_shorten(value)}"
        )
        if item["type"] == "extra_forbidden":
            message, shown = (
                "there is no such field",
                "see /api/v1/openapi.json for the fields of this request",
            )
        found.append(
            Problem(
                code=item["type"],
                message=f"{name}: {message}" if name else message,
                hint=shown,
                pointer=pointer_of(location),
                item=name,
            )
        )
    return tuple(found)


def _is_union_branch(part: int | str) -> bool:
    """Pydantic names the branch of a union in `loc`; the input has no such level."""
    return isinstance(part, str) and (part in {"int", "str", "float", "bool", "none"} or "[" in part)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def validation_answer(error: ValidationError) -> Response:
    """The answer to a request that flask-openapi found wrong."""
    problems = problems_of(error)
    return answer(422, "invalid", problems[0].message, hint=problems[0].hint, problems=problems)


def farm_answer(error: FarmError) -> Response:
    status = status_of(error)
    if status >= 500 and not isinstance(error, Transient):
        log.error("request_failed", path=request.path, code=error.code, error=str(error))
    return answer(
        status,
        error.code,
        error.message,
        hint=error.hint,
        problems=error.problems,
        retry_after=RETRY_SECONDS
        if status == HTTPStatus.SERVICE_UNAVAILABLE
        else getattr(error, "retry_after", 0),
    )


def register(app: Flask) -> None:
    """Answer every error of `app` by the tables above."""

    @app.errorhandler(FarmError)
    def farm_error(error: FarmError) -> Response:
        return farm_answer(error)

    @app.errorhandler(ValidationError)
    def validation_error(error: ValidationError) -> Response:
        return validation_answer(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response | HTTPException:
        if error.response is not None or error.code is None or error.code < 400:  # a redirect, or ready made
            return error
        code = CODE_OF_STATUS.get(error.code, "error")
        response = answer(error.code, code, error.description or "", hint=HINT_OF_STATUS.get(error.code, ""))
        if allowed := getattr(error, "valid_methods", None):
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    @app.errorhandler(OperationalError)
    @app.errorhandler(InterfaceError)
    @app.errorhandler(PoolTimeout)
    def database_away(error: Exception) -> Response:
        reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        log.warning("database_away", path=request.path, error=reason)
        return answer(
            503,
            "database_away",
            "the database does not answer",
            hint=HINT_OF_STATUS[503],
            retry_after=RETRY_SECONDS,
        )

    @app.errorhandler(RedisError)
    def redis_away(error: RedisError) -> Response:
        log.warning("redis_away", path=request.path, error=str(error))
        return answer(
            503,
            "redis_away",
            "the message broker does not answer",
            hint=HINT_OF_STATUS[503],
            retry_after=RETRY_SECONDS,
        )

    @app.errorhandler(OSError)
    def no_space(error: OSError) -> Response:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return unexpected(error)
        log.error("disk_full", path=request.path, error=str(error))
        return answer(
            507,
            "disk_full",
            "the server's disk is full: nothing was kept",
            hint="make room there and send it again",
        )

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        log.error("request_crashed", path=request.path, request_id=g.get("request_id", ""), exc_info=error)
        return answer(500, "internal", "something went wrong inside the farm", hint=HINT_OF_STATUS[500])
