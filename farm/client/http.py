"""One farm as a client sees it: requests with retries, idempotency keys, and problems turned into farm errors."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from farm.clock import Clock, SystemClock
from farm.errors import BadRequest, Conflict, FarmError, NotFound, Permanent, Problem, Transient

API = "/api/v1"
RETRIES = 4
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
#: answers after which nothing was changed, so that any request may be sent again
RETRY_STATUS = frozenset({429, 502, 503, 504})
#: posts that have the same effect when they arrive twice
_REPEATABLE_POSTS = (
    "/jobs",
    "/batches",
    ":cancel",
    ":drain",
    ":resume",
    ":validate",
    ":inspect",
    ":complete",
)
_CLASS_OF_STATUS: dict[int, type[FarmError]] = {
    400: BadRequest,
    401: BadRequest,
    403: BadRequest,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    413: BadRequest,
    415: BadRequest,
    421: BadRequest,
    422: BadRequest,
    429: Transient,
    502: Transient,
    503: Transient,
    504: Transient,
}


def error_of(response: httpx.Response) -> FarmError:
    """The farm error that an answer with an error status stands for."""
    kind = _CLASS_OF_STATUS.get(response.status_code, Permanent)
    try:
        body = response.json()
        problems = tuple(_problem(item) for item in body.get("errors", ()))
        detail = str(body.get("detail", ""))
        code = str(body.get("code", ""))
    except (ValueError, AttributeError, TypeError):
        return kind(f"the farm answered {response.status_code} {response.reason_phrase}", response.text[:200])
    if len(problems) == 1:
        return kind(problems[0].message, problems[0].hint, code=code, problems=_with_place(problems))
    return kind(
        detail or f"the farm answered {response.status_code}", code=code, problems=_with_place(problems)
    )


def _problem(item: Mapping[str, Any]) -> Problem:
    text = {name: str(item.get(name, "")) for name in ("code", "message", "hint", "pointer", "tag", "item")}
    return Problem(**text, column=int(item.get("column", 0)))


def _with_place(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Problems that say more than the message: those that name a place in the input."""
    placed = any(problem.pointer or problem.tag or problem.column for problem in problems)
    return problems if placed or len(problems) > 1 else ()


class Client:
    """A farm at `url`, asked with an API key.

    Paths are relative to the API, such as `/jobs`. Every method raises a `FarmError` for an error answer: `BadRequest`
    for wrong input, `NotFound`, `Conflict`, `Transient` when the farm is away after all retries.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout_seconds: float = 30.0,
        retries: int = RETRIES,
        clock: Clock | None = None,
        transport: httpx.BaseTransport | None = None,
    ):
        self.url = url.rstrip("/")
        self.clock = clock or SystemClock()
        self._retries = retries
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": "farm-client"},
            timeout=httpx.Timeout(timeout_seconds, connect=5.0),
            follow_redirects=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self.request("GET", path, params=params).json()

    def post(self, path: str, body: Any = None, *, idempotency_key: str = "") -> Any:
        """Post JSON; jobs and batches get an idempotency key, so that a retry never makes a second one."""
        return self.request(
            "POST", path, json={} if body is None else body, headers=_key_header(path, idempotency_key)
        ).json()

    def patch(self, path: str, body: Any) -> Any:
        return self.request("PATCH", path, json=body).json()

    def delete(self, path: str) -> None:
        self.request("DELETE", path)

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        query = {"limit": 100, **(params or {})}
        while True:
            page = self.get(path, query)
            yield from page["items"]
            if not page.get("next_cursor"):
                return
            query["cursor"] = page["next_cursor"]

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str = "") -> dict[str, Any]:
        """Queue one job and return it as accepted."""
        job: dict[str, Any] = self.post("/jobs", dict(spec), idempotency_key=idempotency_key)
        return job

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: Callable[[], Any] | None = None,
        files: Callable[[], Any] | None = None,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx.Response:
        """Send a request until it is answered, at most `retries` times more.

        `content` and `files` are called for each try, so that a file is read from its start again.
        """
        repeatable = _is_repeatable(method, path)
        pause = FIRST_PAUSE_SECONDS
        for tries_left in range(self._retries, -1, -1):
            options: dict[str, Any] = {"params": params, "headers": headers}
            if timeout_seconds is not None:
                options["timeout"] = timeout_seconds
            if content is not None:
                options["content"] = content()
            elif files is not None:
                options.update(files=files(), data=data)
            elif json is not None:
                options["json"] = json
            try:
                response = self._http.request(method, API + path, **options)
            except httpx.TransportError as error:
                if not tries_left or not (
                    repeatable or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                ):
                    raise Transient(
                        f"the farm at {self.url} does not answer: {error}",
                        "is it running? `farm up` starts it, FARM_URL says where it is",
                        code="farm_away",
                    ) from None
                wait = pause
            else:
                if response.is_success or response.is_redirect or response.status_code == 304:
                    return response
                if response.status_code not in RETRY_STATUS or not tries_left:
                    raise error_of(response)
                wait = _retry_after(response) or pause
            self.clock.sleep(min(wait, LONGEST_PAUSE_SECONDS) * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            pause *= 2
        raise AssertionError("unreachable")

    def stream(self, path: str, *, headers: Mapping[str, str] | None = None) -> Any:
        """A context manager of the answer to a GET that is read as it comes; one try."""
        return self._http.stream("GET", API + path, headers=headers, timeout=httpx.Timeout(60.0, connect=5.0))


def _key_header(path: str, given: str) -> dict[str, str]:
    if given or path.split("?", 1)[0] in {"/jobs", "/batches"}:
        return {"Idempotency-Key": given or str(uuid.uuid4())}
    return {}


def _is_repeatable(method: str, path: str) -> bool:
    return method != "POST" or path.split("?", 1)[0].endswith(_REPEATABLE_POSTS)


def _retry_after(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
