"""Further guidance over HTTP: who reads it, who refuses it, and when a negative prompt has no effect."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from farm.jobs import models
from tests.contract.test_api_videos import refused
from tests.support.web import NOW, WebFarm, model_info

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "flow": ("flux1", {"transformer": {"guidance_embeds": True}}),
    "two": ("wan", {"transformer": {}, "transformer_2": {}}),
}


@pytest.fixture
def farm(farm: WebFarm) -> WebFarm:
    with farm.services.sessions.begin() as session:
        for number, (name, (family, configs)) in enumerate(FAMILIES.items()):
            info = dataclasses.replace(model_info(name), family=family, configs=configs)
            models.register_model(
                session, farm.owner_id, name=name, info=info, sha256=str(number) * 64, now=NOW,
                manifest=[{"path": "x", "sha256": "b" * 64, "size": 1}],
            )  # fmt: skip
    return farm


@pytest.mark.parametrize(
    ("model", "fields", "pointer", "words"),
    [
        ("demo", {"true_cfg_scale": 2.0}, "/true_cfg_scale", "demo does not read it; leave true_cfg_scale out"),
        ("flow", {"guidance_scale_2": 2.0}, "/guidance_scale_2", "goes by guidance_scale and true_cfg_scale"),
        ("two", {"guidance_scale_2": 101.0}, "/guidance_scale_2", "give 0 to 100"),
        ("two", {"guidance_scale_2": "much"}, "/guidance_scale_2", "not a number"),
    ],
)  # fmt: skip
def test_a_model_refuses_what_it_does_not_read(
    farm: WebFarm, model: str, fields: dict[str, Any], pointer: str, words: str
) -> None:
    found = refused(farm, model=model, sampler="euler", **fields)
    assert words in found[pointer]


def test_the_list_of_models_says_what_each_reads(farm: WebFarm) -> None:
    shown = {model["name"]: model["further_scales"] for model in farm.get("/models").get_json()["items"]}
    assert shown == {"demo": [], "flow": ["true_cfg_scale"], "two": ["guidance_scale_2"]}


def warnings(farm: WebFarm, **fields: Any) -> list[str]:
    answer = farm.post(
        "/jobs:validate", {"prompt": "a fox", "model": "demo", "negative_prompt": "blurry", **fields}
    )
    assert answer.get_json()["valid"], answer.text
    return [str(warning) for warning in answer.get_json()["warnings"]]


def test_a_negative_prompt_without_effect_is_told(farm: WebFarm) -> None:
    told = "the negative prompt has no effect on demo: give a guidance_scale above 1"
    assert warnings(farm, guidance_scale=1.0) == [told]
    assert warnings(farm, guidance_scale=1.5) == []
    assert warnings(farm, guidance_scale=1.0, negative_prompt=" ") == []


def test_rows_of_csv_have_the_fields(farm: WebFarm) -> None:
    rows = "prompt,model,true_cfg_scale\na fox,demo,2.5\n"
    answer = farm.post("/batches", data=rows, content_type="text/csv")
    assert answer.status_code == 422, answer.text
    assert "demo does not read it" in answer.text
