"""Errors as RFC 9457 problems: stable codes, the place of each mistake, what would be right."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy.exc import OperationalError

from farm.errors import BadRequest, Conflict, FarmError, NotFound, Permanent, Problem, Transient
from farm.web.errors import pointer_of, status_of
from tests.support.web import WebFarm


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("x"), 422),
        (BadRequest("x", code="malformed"), 400),
        (BadRequest("x", code="file_too_large"), 413),
        (BadRequest("x", code="too_large"), 422),
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (Transient("x"), 503),
        (Permanent("x"), 500),
        (FarmError("x"), 500),
        (FarmError("x", code="forbidden"), 403),
        (FarmError("x", code="precondition_failed"), 412),
    ],
)
def test_each_error_has_its_status(error: FarmError, status: int):
    assert status_of(error) == status


def test_pointers_are_escaped():
    assert pointer_of(("a~b", 0, "c/d")) == "/a~0b/0/c~1d"


def test_a_problem_is_complete(farm: WebFarm):
    answer = farm.get("/jobs/job_nowhere")
    body = answer.get_json()
    assert answer.mimetype == "application/problem+json"
    assert body["status"] == answer.status_code == 404
    assert body["type"].startswith("urn:farm:problem:")
    assert body["title"] == "Not Found"
    assert body["instance"] == "/api/v1/jobs/job_nowhere"
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert set(body["errors"][0]) == set(Problem(code="", message="").as_dict())


def test_broken_json_is_told_as_such(farm: WebFarm):
    for path in ("/jobs", "/presets", "/jobs:validate", "/loras", "/batches"):
        answer = farm.post(path, data=b'{"prompt": ', content_type="application/json")
        assert answer.status_code == 400, path
        assert "no JSON" in answer.get_json()["detail"]


def test_json_nested_without_end_is_refused(farm: WebFarm):
    answer = farm.post("/jobs", data=b"[" * 100_000, content_type="application/json")
    assert answer.status_code == 400


def test_another_media_type_is_refused_with_the_right_one(farm: WebFarm):
    for path in ("/jobs", "/presets", "/loras", "/batches"):
        answer = farm.post(path, data=b"prompt: a fox", content_type="application/yaml")
        assert answer.status_code == 415, path
        assert "application/json" in answer.get_json()["detail"]


def test_a_large_body_is_refused(farm: WebFarm):
    answer = farm.post("/jobs", data=b" " * (1024 * 1024 + 1), content_type="application/json")
    assert answer.status_code == 413
    assert answer.get_json()["code"] == "too_large"


def test_a_wrong_verb_names_the_right_ones(farm: WebFarm):
    answer = farm.request("DELETE", "/jobs")
    assert answer.status_code == 405
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))
    assert answer.get_json()["code"] == "method_not_allowed"


def test_an_unknown_address_is_a_problem_too(farm: WebFarm):
    answer = farm.get("/nowhere")
    assert answer.status_code == 404
    assert answer.mimetype == "application/problem+json"


@pytest.mark.parametrize(
    ("query", "item"),
    [("limit=0", "limit"), ("limit=many", "limit"), ("limit=201", "limit"), ("lmit=5", "lmit")],
)
def test_wrong_query_parameters_are_named(farm: WebFarm, query: str, item: str):
    answer = farm.get(f"/jobs?{query}")
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["item"] == item


def test_browsers_get_a_page(farm: WebFarm):
    answer = farm.http.get("/nowhere", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 404
    assert answer.mimetype in {"text/html", "text/plain"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OperationalError("select", {}, Exception("connection refused")), "database_away"),
        (RedisAway("connection refused"), "redis_away"),
        (Transient("the store is unreachable", code="store_unreachable"), "store_unreachable"),
    ],
)
def test_a_service_that_is_away_is_503_with_a_time_to_retry(
    farm: WebFarm, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
):
    def away(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("farm.jobs.views.list_jobs", away)
    answer = farm.get("/jobs")
    assert answer.status_code == 503
    assert answer.get_json()["code"] == code
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_crash_tells_an_id_and_nothing_else(farm: WebFarm, monkeypatch: pytest.MonkeyPatch):
    def crash(*args: object, **options: object) -> None:
        raise RuntimeError("secret connection string")

    monkeypatch.setattr("farm.jobs.views.list_jobs", crash)
    answer = farm.get("/jobs")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.get_json()["request_id"]
