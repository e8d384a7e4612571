"""Every example of the LoRA page that the language implements, and the neighbours' prompts."""

from __future__ import annotations

import pytest

from farm.errors import BadRequest
from farm.prompt.explain import explain, generic_layout
from farm.prompt.resolve import AdapterRef, plan
from farm.prompt.tags import parse
from tests.unit.prompt.models import WAN


def strengths(prompt: str, steps: int = 8, **options: bool) -> dict[str, dict[str, list[float]]]:
    found = explain(prompt, generic_layout(), steps, adapters=None, model=None, **options)
    return found["adapters"][0]["strengths"]


def flat(
    te: float, inside: float, mid: float, out: float, steps: int = 8
) -> dict[str, dict[str, list[float]]]:
    return {
        "text_encoder": {"all": [te] * steps},
        "unet": {"in": [inside] * steps, "mid": [mid] * steps, "out": [out] * steps},
    }


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<lora:lora_name:0.7>", (0.7, 0.7, 0.7, 0.7)),
        ("<lora:lora_name>", (1.0, 1.0, 1.0, 1.0)),
        ("<lora:test_lora:1.0:module=unet>", (0.0, 1.0, 1.0, 1.0)),
        ("<lora:test_lora:te=0.5:unet=1.5>", (0.5, 1.5, 1.5, 1.5)),
        ("<lora:test_lora:1.0:in=0:mid=1:out=0>", (1.0, 0.0, 1.0, 0.0)),
        ("<lora:a1111:0.5:1.5>", (0.5, 1.5, 1.5, 1.5)),
        ("<lyco:old:0.4>", (0.4, 0.4, 0.4, 0.4)),
        ('<LORA:"lora name":1:1:lbw=NONE>', (0.0, 0.0, 0.0, 0.0)),
        ("<lora:x:0.9:te=0.5>", (0.5, 0.5, 0.5, 0.5)),
        ("<lora:x:unet=0.3>", (1.0, 0.3, 0.3, 0.3)),
        ("<lora:x:-0.5:module=te>", (-0.5, 0.0, 0.0, 0.0)),
        ("<lora:x:0.8:in=0.1:unet=0.5>", (0.8, 0.1, 0.5, 0.5)),
    ],
)
def test_constant_strengths(prompt: str, expected: tuple[float, float, float, float]) -> None:
    assert strengths(prompt) == flat(*expected)


@pytest.mark.parametrize("steps", [6, 8, 50])
def test_stepwise_example_switches_at_step_6_in_every_run(steps: int) -> None:
    te = strengths("<lora:test_lora:te=0.1@1,0.6@6>", steps)["text_encoder"]["all"]
    assert te == [0.1] * 5 + [0.6] * (steps - 5)


def test_high_and_low_choose_the_expert() -> None:
    parsed = parse("<lora:firstlora:1.0:low> and <lora:secondlora:1.0:high>")
    refs = {name: AdapterRef(name=name, sha256=name) for name in ("firstlora", "secondlora")}
    low, high = plan(parsed.tags, refs, WAN, 4).plan.adapters
    assert {region.component for region in low.strengths} == {"transformer_2"}
    assert {region.component for region in high.strengths} == {"transformer"}


def test_all_examples_together_leave_a_clean_prompt() -> None:
    prompt = (
        "a fox <lora:a:1.0>, at night, <lora:b:te=0.5:unet=1.5>, <lora:c:in=0:mid=1:out=0> in ink <lora:d>"
    )
    assert parse(prompt).text == "a fox, at night, in ink"


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        # loractl: fractions when nothing exceeds 1, else steps from 0, linear in between
        ("<loractl:x:0@0,1@0.5,0@1>", {}, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("<lora:x:0@0,1@0.5,0@1>", {"linear": True}, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("<lora:x:0@0,1@0.5,0@1>", {}, [0.0, 0.0, 1.0, 1.0, 0.0]),
        ("<loractl:x:0.5@0,1@4>", {}, [0.5, 0.625, 0.75, 0.875, 1.0]),
        ("<loractl:x:0.25@0.5,1@1>", {}, [0.25, 0.25, 0.25, 0.625, 1.0]),
        ("<loractl:x:0@0.5;1@2.5>", {}, [0.0, 0.25, 0.75, 1.0, 1.0]),
        ("<lora:x:0@0,1@1:hr=1@0,0@1>", {"hires": True, "linear": True}, [1.0, 0.75, 0.5, 0.25, 0.0]),
        # lora-block-weight
        ("<lora:x:1:start=3>", {}, [0.0, 0.0, 1.0, 1.0, 1.0]),
        ("<lora:x:1:stop=2>", {}, [1.0, 1.0, 0.0, 0.0, 0.0]),
        ("<lora:x:1:step=2-4>", {}, [0.0, 1.0, 1.0, 1.0, 0.0]),
        ("<lora:x:1:step=0.5-100%>", {}, [0.0, 0.0, 1.0, 1.0, 1.0]),
        ("<lora:x:1:start=0:stop=3>", {}, [1.0, 1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_neighbours_prompts(prompt: str, options: dict[str, bool], expected: list[float]) -> None:
    found = strengths(prompt, 5, **options)
    assert found["text_encoder"]["all"] == pytest.approx(expected)
    assert found["unet"]["out"] == pytest.approx(expected)


def test_zero_in_a_plain_tag_is_refused_and_says_what_to_write() -> None:
    with pytest.raises(BadRequest) as refused:
        strengths("<lora:x:0@0,1@4>")
    assert "count from 1" in refused.value.message
    assert "loractl" in refused.value.hint
