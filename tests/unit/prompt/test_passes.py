"""Two passes of one job: a plan for each, and notes that say of which they are true."""

from __future__ import annotations

import pytest

from farm.errors import BadRequest
from farm.lora.layout import Layout, Region
from farm.lora.schedule import StrengthPlan
from farm.prompt.passes import Plans, plans
from farm.prompt.tags import parse
from tests.unit.prompt.models import FLUX, SD1
from tests.unit.prompt.test_resolve import REFS


def of(prompt: str, steps: int = 4, second: int | None = 2, layout: Layout = SD1) -> Plans:
    return plans(parse(prompt).tags, REFS, layout, steps, second)


def at(plan: StrengthPlan | None, component: str, block: str, index: int = -1) -> tuple[float, ...]:
    assert plan is not None
    region = Region(component, block, index)
    return tuple(sum(plan.at(region, step)) for step in range(1, plan.steps + 1))


def test_each_pass_has_strengths_of_its_own() -> None:
    found = of("<lora:ink:0.8:hrte=0.3:hrunet=0@1,1@2>")
    assert at(found.first, "text_encoder", "all") == (0.8,) * 4
    assert at(found.first, "unet", "mid", 12) == (0.8,) * 4
    assert at(found.second, "text_encoder", "all") == (0.3, 0.3)
    assert at(found.second, "unet", "mid", 12) == (0.0, 1.0)


def test_a_curve_is_stretched_over_each_pass() -> None:
    found = of("<lora:ink:0~0.0,1~1.0>", 5, 3)
    assert at(found.first, "unet", "in") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert at(found.second, "unet", "in") == (0.0, 0.5, 1.0)


def test_an_adapter_may_act_in_one_pass_alone() -> None:
    found = of("<lora:ink:0:hr=1>")
    assert not found.first.adapters
    assert at(found.second, "unet", "in") == (1.0, 1.0)
    assert found.notes == ("first pass: <lora:ink:0:hr=1> is 0 everywhere at every step, so it is left out",)


def test_a_note_that_is_true_of_both_passes_stands_once() -> None:
    notes = of("<lora:ink:0>").notes
    assert notes == ("<lora:ink:0> is 0 everywhere at every step, so it is left out",)


def test_without_a_second_pass_its_keys_are_noted() -> None:
    found = of("<lora:ink:1:hr=0.5:hrunet=2> <lora:wash:1>", second=None)
    assert found.second is None
    assert found.notes == (
        "<lora:ink:1:hr=0.5:hrunet=2>: hr, hrunet have no effect, as no second pass is asked for (hr_scale)",
    )


def test_mistakes_of_the_second_pass_alone_are_told() -> None:
    with pytest.raises(BadRequest, match="start 3 stands after stop"):
        of("<lora:ink:1:start=3:stop=50%>", 8, 2)


def test_a_model_without_text_encoders_refuses_hrte() -> None:
    bare = Layout(
        family="x", denoisers=FLUX.denoisers, text_encoders=(), blocks=FLUX.blocks, layers=FLUX.layers
    )
    with pytest.raises(BadRequest, match="this model lacks a text encoder"):
        of("<lora:ink:1:hrte=0.5>", layout=bare)
