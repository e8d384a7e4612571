"""The object that `explain --json` prints."""

from __future__ import annotations

import json

import pytest

from farm.errors import BadRequest
from farm.lora.formats.header import TensorInfo
from farm.lora.formats.inspect import AdapterInfo
from farm.prompt.explain import ExplainedAdapter, explain, generic_layout
from farm.prompt.resolve import AdapterRef
from tests.unit.prompt.models import SD1, SDXL, WAN

INK = ExplainedAdapter(
    ref=AdapterRef(name="Ink", sha256="i", default_strength=0.7),
    type="lora",
    base_model="sdxl",
    trigger_words=("ink style",),
)


def test_contract() -> None:
    found = explain("a fox, <lora:ink>, night", SDXL, 2, adapters={"ink": INK}, model="m")
    assert json.loads(json.dumps(found)) == {
        "prompt": "a fox, night",
        "steps": 2,
        "model": "m",
        "adapters": [
            {
                "name": "Ink",
                "type": "lora",
                "base_model": "sdxl",
                "trigger_words": ["ink style"],
                "strengths": {
                    "text_encoder": {"all": [0.7, 0.7]},
                    "text_encoder_2": {"all": [0.7, 0.7]},
                    "unet": {"in": [0.7, 0.7], "mid": [0.7, 0.7], "out": [0.7, 0.7]},
                },
            }
        ],
        "warnings": [],
    }


def test_prompt_only_takes_any_name_and_adds_up_equal_ones() -> None:
    found = explain("<lora:A:1> <lora:b:0> <lora:a:0.5>", generic_layout(), 1, adapters=None, model=None)
    assert [adapter["name"] for adapter in found["adapters"]] == ["A", "b"]
    assert found["adapters"][0]["strengths"]["unet"]["mid"] == [1.5]
    assert found["adapters"][1]["strengths"]["unet"]["mid"] == [0.0]
    assert found["model"] is None
    assert "left out" in found["warnings"][0]


def test_blocks_that_differ_are_shown_one_by_one() -> None:
    strengths = explain("<lora:x:1:blocks=1-2=0.5>", SD1, 1, adapters=None, model=None)["adapters"][0][
        "strengths"
    ]
    assert strengths["unet"]["mid"] == [1.0]
    assert strengths["unet"]["out"] == [1.0]
    assert "in" not in strengths["unet"]
    assert strengths["unet"]["base"] == [1.0]
    assert (strengths["unet"]["IN02"], strengths["unet"]["IN03"]) == ([0.5], [1.0])
    assert list(strengths["unet"])[-2:] == ["mid", "out"]


def test_two_denoisers() -> None:
    strengths = explain("<lora:x:1:low>", WAN, 1, adapters=None, model=None)["adapters"][0]["strengths"]
    assert strengths["transformer"] == {"in": [0.0], "mid": [0.0], "out": [0.0]}
    assert strengths["transformer_2"] == {"in": [1.0], "mid": [1.0], "out": [1.0]}


def test_an_adapter_that_matches_nothing_is_refused_where_its_name_stands() -> None:
    info = AdapterInfo(
        type="lora", types=("lora",), base_model="flux1", scheme="kohya", ranks=(4,), alphas=(), layers=1,
        components=("transformer",), trigger_words=(), default_strength=None, title="", description="",
        metadata={}, problems=(),
    )  # fmt: skip
    tensors = {
        f"lora_unet_double_blocks_0_img_attn_qkv.{name}.weight": TensorInfo(
            dtype="F16", shape=shape, begin=0, end=0
        )
        for name, shape in (("lora_up", (9216, 4)), ("lora_down", (4, 3072)))
    }
    flux = ExplainedAdapter.of("flux-ink", "flux-ink.safetensors", info, tensors)
    with pytest.raises(BadRequest) as refused:
        explain("a <lora:flux-ink:1>", SD1, 1, adapters={"flux-ink": flux}, model="sd")
    (problem,) = refused.value.problems
    assert (problem.tag, problem.item, problem.column) == ("<lora:flux-ink:1>", "flux-ink", 9)
    assert problem.message


def test_unknown_adapter() -> None:
    with pytest.raises(BadRequest, match="did you mean 'Ink'"):
        explain("<lora:inc:1>", SDXL, 2, adapters={"ink": INK}, model="m")
