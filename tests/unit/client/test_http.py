"""The client: what it retries, what it never sends twice, and how problems become errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from farm.client.http import Client
from farm.errors import BadRequest, Conflict, FarmError, NotFound, Permanent, Transient


class FakeClock:
    """A clock on which sleeping takes no time."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def client(handler: Callable[[httpx.Request], httpx.Response], clock: FakeClock | None = None) -> Client:
    return Client(
        "http://farm.test", "farm_a_b", clock=clock or FakeClock(), transport=httpx.MockTransport(handler)
    )


def problem(status: int, **body: object) -> httpx.Response:
    return httpx.Response(
        status, content=json.dumps(body), headers={"Content-Type": "application/problem+json"}
    )


def test_the_key_is_sent_as_bearer():
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer farm_a_b"
        assert request.url.path == "/api/v1/jobs"
        return httpx.Response(200, json={"items": []})

    assert client(answer).get("/jobs") == {"items": []}


def test_busy_answers_are_asked_again_after_the_time_they_name():
    answers = [problem(503) for _ in range(2)]
    answers[0].headers["Retry-After"] = "3"
    clock = FakeClock()

    def answer(request: httpx.Request) -> httpx.Response:
        return answers.pop(0) if answers else httpx.Response(200, json={"id": "job_1"})

    assert client(answer, clock).get("/jobs/job_1") == {"id": "job_1"}
    assert 2.4 <= clock.slept[0] <= 3.6
    assert clock.slept[1] < 1


def test_a_retried_submit_carries_the_same_idempotency_key():
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) < 3:
            raise httpx.ReadError("connection reset")
        return httpx.Response(202, json={"id": "job_1"})

    assert client(answer).submit({"prompt": "a fox"}) == {"id": "job_1"}
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_a_post_that_may_have_arrived_is_not_sent_again():
    tries = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        raise httpx.ReadError("connection reset")

    with pytest.raises(Transient):
        client(answer).post("/jobs/job_1:retry")
    assert tries == 1


def test_a_post_that_never_arrived_is_sent_again():
    tries = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"state": "queued"})

    assert client(answer).post("/jobs/job_1:retry") == {"state": "queued"}


def test_a_farm_that_is_away_is_told_with_its_address():
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Transient, match=r"http://farm\.test does not answer") as caught:
        client(answer).get("/jobs")
    assert "farm up" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, BadRequest),
        (404, NotFound),
        (409, Conflict),
        (412, Conflict),
        (413, BadRequest),
        (415, BadRequest),
        (422, BadRequest),
        (429, Transient),
        (500, Permanent),
        (503, Transient),
    ],
)
def test_each_status_is_an_error_of_its_kind(status: int, kind: type[FarmError]):
    with pytest.raises(FarmError) as caught:
        client(lambda request: problem(status, detail="no", code="some_code", errors=[])).get("/jobs")
    assert type(caught.value) is kind
    assert caught.value.code == "some_code"


def test_the_place_of_a_mistake_survives():
    item = {
        "code": "unknown_adapter",
        "message": "unknown adapter 'inc'",
        "hint": "did you mean 'ink'?",
        "pointer": "/prompt",
        "tag": "<lora:inc:1>",
        "item": "inc",
        "column": 7,
    }
    with pytest.raises(BadRequest) as caught:
        client(lambda request: problem(422, detail="x", code="unknown_adapter", errors=[item])).submit({})
    assert caught.value.problems[0].as_dict() == item
    assert caught.value.problems[0].sentence() == "unknown adapter 'inc' (column 7): did you mean 'ink'?"


def test_an_answer_that_is_no_json_is_told_by_its_status():
    with pytest.raises(Permanent, match="500"):
        client(lambda request: httpx.Response(500, text="<html>proxy</html>")).get("/jobs")


def test_pages_are_followed_to_the_last():
    def answer(request: httpx.Request) -> httpx.Response:
        cursor = request.url.params.get("cursor")
        assert request.url.params["q"] == "ink"
        if cursor is None:
            return httpx.Response(200, json={"items": [{"n": 1}, {"n": 2}], "next_cursor": "2"})
        assert cursor == "2"
        return httpx.Response(200, json={"items": [{"n": 3}], "next_cursor": None})

    assert [row["n"] for row in client(answer).pages("/loras", {"q": "ink"})] == [1, 2, 3]
