"""Extractions over HTTP: checked whole before they are queued, then a job like any other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.web import API, WebFarm, lora_file


@pytest.fixture
def two(farm: WebFarm) -> WebFarm:
    farm.add_adapter("ink")
    farm.add_adapter("gold", data=lora_file(rank=3, layers=5))
    return farm


def ask(farm: WebFarm, **fields: Any) -> Any:
    return farm.post("/loras:extract", {"name": "both", "rank": 4, **fields})


def test_an_extraction_is_a_job(two: WebFarm):
    answer = ask(two, prompt="<lora:ink:0.8>", networks=[{"name": "gold", "strength": 0.5}])
    assert answer.status_code == 202, answer.text
    job = answer.get_json()
    assert answer.headers["Location"] == f"{API}/jobs/{job['id']}"
    assert (job["kind"], job["state"], job["steps"], job["count"]) == ("extract", "queued", 5, 1)
    assert job["extract"] == {"name": "both", "rank": 4, "energy": None, "max_rank": None}
    assert (job["result"], job["images"], job["width"]) == (None, [], None)
    assert [network["name"] for network in job["networks"]] == ["ink", "gold"]
    (listed,) = two.get("/jobs").get_json()["items"]
    assert listed["id"] == job["id"]
    cancelled = two.post(f"/jobs/{job['id']}:cancel")
    assert cancelled.get_json()["state"] == "cancelled"
    assert two.post(f"/jobs/{job['id']}:retry").get_json()["state"] == "queued"


def test_pictures_are_jobs_of_the_other_kind(two: WebFarm):
    job = two.post("/jobs", {"prompt": "a fox"}).get_json()
    assert (job["kind"], job["extract"], job["result"]) == ("render", None, None)
    assert two.post("/jobs", {"prompt": "a fox", "extract": {"name": "x"}}).status_code == 422


def test_a_repeated_request_makes_no_second_job(two: WebFarm):
    body = {"name": "both", "rank": 4, "prompt": "<lora:ink:1>"}
    headers = {"Idempotency-Key": "one"}
    first, second = (two.post("/loras:extract", body, headers=headers) for _ in range(2))
    assert first.get_json()["id"] == second.get_json()["id"]
    assert len(two.get("/jobs").get_json()["items"]) == 1


@pytest.mark.parametrize(
    ("fields", "pointer", "told"),
    [
        ({"prompt": "<lora:inc:1>"}, "/prompt", "unknown adapter 'inc'"),
        ({"networks": [{"name": "inc"}]}, "/networks/0", "unknown adapter 'inc'"),
        (
            {"networks": [{"name": "ink", "strength": "much"}]},
            "/networks/0/strength",
            "is 'much', not a number",
        ),
        ({"prompt": "<lora:ink:1>", "rank": 0}, "/rank", "rank is 0"),
        ({"prompt": "<lora:ink:1>", "rank": None}, "/rank", "neither rank nor energy"),
        ({"prompt": "<lora:ink:0@1,1@9>"}, "/prompt", "a curve over steps"),
        ({"prompt": "<lora:ink:1>", "name": "a/b"}, "/name", "cannot hold '/'"),
        ({"prompt": "<lora:ink:1>", "steps": 4}, "/steps", "unknown field 'steps'"),
        ({"prompt": "no tags"}, "/prompt", "no adapter is named"),
        ({"prompt": "<lora:ink:1>", "model": "dmo"}, "/model", "unknown model 'dmo'"),
    ],
)
def test_mistakes_are_told_with_their_place_before_anything_is_queued(
    two: WebFarm, fields: dict[str, Any], pointer: str, told: str
):
    answer = ask(two, **fields)
    assert answer.status_code == 422, answer.text
    (error,) = answer.get_json()["errors"]
    assert error["pointer"] == pointer
    assert told in error["message"]
    assert two.get("/jobs").get_json()["items"] == []


def test_a_name_of_somebody_else_is_refused(two: WebFarm):
    two.add_adapter("theirs", key=two.stranger_key)
    (error,) = ask(two, prompt="<lora:ink:1>", name="Theirs").get_json()["errors"]
    assert error["code"] == "name_taken"


def test_the_form_queues_and_tells_mistakes_beside_their_fields(two: WebFarm):
    browser = two.browser()
    page = browser.get("/models/extract")
    assert page.status_code == 200
    token = page.text.split('name="csrf_token" value="')[1].split('"')[0]
    fields = {"csrf_token": token, "name": "", "model": "demo", "keep": "energy", "energy": "lots", "network": ["ink"],
              "strength:ink": "0.7", "prompt": ""}  # fmt: skip
    refused = browser.post("/models/extract", data=fields)
    assert refused.status_code == 422
    assert "energy is &#39;lots&#39;, not a number" in refused.text
    assert 'value="0.7"' in refused.text
    queued = browser.post("/models/extract", data=fields | {"name": "both", "energy": "0.9", "max_rank": "8"})
    assert queued.status_code == 303, queued.text
    (job,) = two.get("/jobs").get_json()["items"]
    assert queued.headers["Location"] == f"/jobs/{job['id']}"
    assert job["prompt"] == "<lora:ink:0.7>"
    assert job["extract"] == {"name": "both", "rank": None, "energy": 0.9, "max_rank": 8}
    shown = browser.get(queued.headers["Location"]).text
    assert "Extract both" in shown
    assert "Run again exactly" not in shown
    again = browser.get(f"/models/extract?job={job['id']}").text
    assert "&lt;lora:ink:0.7&gt;" in again
    assert 'value="both"' in again
    assert "Extract both" in browser.get("/queue").text


def test_models_are_listed(two: WebFarm):
    page = two.browser().get("/models").text
    assert "demo" in page
    assert "/models/extract?model=demo" in page
