"""A second pass over HTTP: its fields, what they are filled in with, what is refused, what is explained and estimated."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from farm.jobs import models
from tests.contract.test_api_jobs import submit
from tests.contract.test_api_videos import refused
from tests.support.web import NOW, WebFarm, model_info


def test_what_is_left_open_is_filled_in(farm: WebFarm) -> None:
    job = submit(farm, steps=6, hr_scale=2)
    assert (job["hr_scale"], job["hr_steps"], job["hr_strength"]) == (2.0, 6, 0.5)
    assert (job["steps"], job["total_steps"]) == (6, 12)
    plain = submit(farm, steps=6)
    assert (plain["hr_scale"], plain["hr_steps"], plain["hr_strength"]) == (None, None, None)
    assert plain["total_steps"] == 6


def test_rows_of_csv_have_its_fields(farm: WebFarm) -> None:
    rows = "prompt,hr_scale,hr_steps,hr_strength\na fox,1.5,4,0.25\na fox,,,\n"
    answer = farm.post("/batches", data=rows, content_type="text/csv")
    assert answer.status_code == 202, answer.text
    jobs = farm.get(f"/jobs?batch={answer.get_json()['id']}").get_json()["items"]
    assert [(job["hr_scale"], job["hr_steps"], job["hr_strength"]) for job in reversed(jobs)] == [
        (1.5, 4, 0.25),
        (None, None, None),
    ]


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"hr_scale": 1}, "/hr_scale", "give more than 1, at most 4"),
        ({"hr_scale": 4.01}, "/hr_scale", "give more than 1, at most 4"),
        ({"hr_scale": 3, "width": 1024, "height": 1024}, "/hr_scale", "3072 x 3072 are 9437184 pixels"),
        ({"hr_scale": 2, "hr_steps": 0}, "/hr_steps", "give 1 to 500"),
        ({"hr_scale": 2, "hr_strength": 0}, "/hr_strength", "give more than 0, at most 1"),
        ({"hr_scale": 2, "hr_strength": 1.1}, "/hr_strength", "give more than 0, at most 1"),
        ({"hr_scale": 2, "hr_steps": 400, "hr_strength": 0.1}, "/hr_strength", "a higher strength or fewer"),
        ({"hr_steps": 5}, "/hr_steps", "there is no second pass; give hr_scale as well"),
        ({"hr_strength": 0.5}, "/hr_strength", "there is no second pass; give hr_scale as well"),
        ({"hr_scale": "big"}, "/hr_scale", "not a number"),
    ],
)
def test_what_is_wrong_is_told_at_its_field(
    farm: WebFarm, fields: dict[str, Any], pointer: str, words: str
) -> None:
    found = refused(farm, **fields)
    assert list(found) == [pointer]
    assert words in found[pointer]


def test_a_family_without_the_machine_refuses(farm: WebFarm) -> None:
    # the layout of a family without a UNet is not needed to refuse it
    info = dataclasses.replace(model_info("flow"), family="flux1", configs={"transformer": {}})
    with farm.services.sessions.begin() as session:
        models.register_model(
            session, farm.owner_id, name="flow", info=info, sha256="f" * 64, now=NOW,
            manifest=[{"path": "x", "sha256": "b" * 64, "size": 1}],
        )  # fmt: skip
    told = refused(farm, model="flow", hr_scale=2)["/hr_scale"]
    assert told.startswith("hr_scale: flow cannot make a second pass; leave hr_scale out")
    shown = {model["name"]: model["second_pass"] for model in farm.get("/models").get_json()["items"]}
    assert shown == {"demo": True, "flow": False}


def test_explain_shows_the_strengths_of_both(farm: WebFarm) -> None:
    farm.add_adapter("ink")
    body = farm.post(
        "/jobs:validate",
        {"prompt": "a fox <lora:ink:0.8:hr=0@1,0.5@2>", "steps": 3, "hr_scale": 2, "hr_steps": 2},
    ).get_json()
    assert body["valid"], body
    first, second = body["explain"], body["explain"]["second_pass"]
    assert (first["steps"], second["steps"]) == (3, 2)
    assert first["adapters"][0]["strengths"]["unet"]["mid"] == [0.8, 0.8, 0.8]
    assert second["adapters"][0]["strengths"]["unet"]["mid"] == [0.0, 0.5]
    assert body["warnings"] == []


def test_a_key_without_a_second_pass_is_noted(farm: WebFarm) -> None:
    farm.add_adapter("ink")
    job = submit(farm, prompt="a fox <lora:ink:0.8:hr=0.5>")
    assert job["warnings"] == [
        "<lora:ink:0.8:hr=0.5>: hr has no effect, as no second pass is asked for (hr_scale)"
    ]


def test_the_estimate_counts_both_passes(farm: WebFarm) -> None:
    def seconds(**fields: Any) -> float:
        spec = {"prompt": "a fox", "steps": 10, **fields}
        return float(farm.post("/jobs:validate", spec).get_json()["estimate"]["seconds"])

    assert seconds(hr_scale=2, hr_steps=30) == pytest.approx(4 * seconds())


def test_the_same_again_has_the_same_second_pass(farm: WebFarm) -> None:
    browser = farm.browser()
    job = submit(farm, steps=6, hr_scale=2, hr_steps=3)
    page = browser.get(f"/jobs/{job['id']}").text
    assert "Second pass: enlarged by 2" in page
    token = page.split('name="csrf_token" value="')[1].split('"')[0]
    answer = browser.post(f"/jobs/{job['id']}/again", data={"csrf_token": token})
    again = farm.get(f"/jobs/{answer.headers['Location'].rsplit('/', 1)[1]}").get_json()
    assert {name: again[name] for name in again if name.startswith("hr_")} == {
        "hr_scale": 2.0, "hr_steps": 3, "hr_strength": 0.5,
    }  # fmt: skip
    assert again["steps"] == 6
