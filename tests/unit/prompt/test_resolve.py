"""Strengths by region and step, against a slow reference and by example."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import BadRequest
from farm.lora.layout import Layout, Region
from farm.prompt.blocks import VECTORS
from farm.prompt.resolve import AdapterRef, ResolvedPlan, expert, find, plan
from farm.prompt.tag import Tag
from farm.prompt.tags import parse
from tests.unit.prompt.models import DEMO, FLUX, SD1, SDXL, WAN
from tests.unit.prompt.test_curves import slow_value
from tests.unit.prompt.test_tags import tags

REFS = {name: AdapterRef(name=name, sha256=name) for name in ("ink", "wash", "x")}


def resolve(prompt: str, layout: Layout = SD1, steps: int = 4, **options: object) -> ResolvedPlan:
    return plan(parse(prompt).tags, REFS, layout, steps, **options)  # type: ignore[arg-type]


def at(resolved: ResolvedPlan, component: str, block: str, index: int = -1) -> tuple[float, ...]:
    region = Region(component, block, index)
    steps = range(1, resolved.plan.steps + 1)
    return tuple(sum(resolved.plan.at(region, step)) for step in steps)


def refusal(prompt: str, layout: Layout = SD1, steps: int = 4, **options: object) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        resolve(prompt, layout, steps, **options)
    return refused.value


def slow_strength(tag: Tag, region: Region, step: int, steps: int, *, linear: bool) -> float:
    """The rules of the language in their order, one question at a time, for the first pass of an SD1."""
    written = tag.curves

    def value(curve: object) -> float:
        return slow_value(curve, step, steps, linear=linear)  # type: ignore[arg-type]

    is_text = region.component == "text_encoder"
    if tag.modules and not any(
        word == region.component or (word == "te" and is_text) for word in tag.modules
    ):
        return 0.0
    if (tag.start and step < tag.start.value) or (tag.stop and step > tag.stop.value):
        return 0.0
    candidates = [written.get("te"), tag.first]
    if not is_text:
        part = "in" if region.index == -1 else region.block
        candidates = [written.get(part), written.get("unet"), tag.second, *candidates]
    else:
        candidates = [written.get("te1"), *candidates]
    result = next((value(curve) for curve in candidates if curve is not None), 0.7)
    if tag.lbw and tag.lbw.factors:
        names = ("BASE", *VECTORS[26])
        label = "BASE" if region.index == -1 else SD1.blocks[region.index]
        result *= tag.lbw.factors[names.index(label)]
    for part in tag.blocks:
        if region.index >= 0 and part.first <= region.index <= part.last:
            result *= part.factor
    return result


@settings(max_examples=50)
@given(tags().filter(lambda tag: not (tag.lbw and tag.lbw.preset)), st.integers(1, 12), st.booleans())
def test_strengths_equal_the_slow_reference(tag: Tag, steps: int, linear: bool) -> None:
    refs = {tag.name.casefold(): AdapterRef(name=tag.name, sha256="x", default_strength=0.7)}
    lacking = {"te2", "te3"} & set(tag.curves)
    if lacking:
        with pytest.raises(BadRequest) as refused:
            plan([tag], refs, SD1, steps, linear=linear)
        assert {problem.code for problem in refused.value.problems} == {"missing_component"}
        return
    resolved = plan([tag], refs, SD1, steps, linear=linear).plan
    for region in SD1.regions():
        for step in range(1, steps + 1):
            expected = slow_strength(tag, region, step, steps, linear=linear)
            assert sum(resolved.at(region, step)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@settings(max_examples=30)
@given(st.lists(tags(), max_size=4), st.integers(1, 8))
def test_tags_of_one_adapter_add_up(many: list[Tag], steps: int) -> None:
    many = [tag for tag in many if not {"te2", "te3"} & set(tag.curves)]
    refs = {tag.name.casefold(): AdapterRef(name=tag.name, sha256="same") for tag in many}
    together = plan(many, refs, SD1, steps).plan
    apart = [plan([tag], refs, SD1, steps).plan for tag in many]
    for region in SD1.regions():
        for step in range(1, steps + 1):
            wanted = sum(sum(one.at(region, step)) for one in apart)
            assert sum(together.at(region, step)) == pytest.approx(wanted, abs=1e-6)
    assert len({entry.max_rank for entry in together.adapters}) == len(together.adapters)


def test_layers_outside_any_block_follow_in() -> None:
    resolved = resolve("<lora:x:1:in=0.2:out=0.3>", FLUX)
    assert at(resolved, "transformer", "in") == at(resolved, "transformer", "out") == (0.2,) * 4
    assert at(resolved, "transformer", "out", 56) == (0.3,) * 4


def test_curves_by_part() -> None:
    resolved = resolve("<lora:x:1:in=0@1,1~4:mid=0.5:out=1@1,0@3>")
    assert at(resolved, "unet", "in", 4) == pytest.approx((0, 1 / 3, 2 / 3, 1))
    assert at(resolved, "unet", "mid", 12) == (0.5,) * 4
    assert at(resolved, "unet", "out", 20) == (1, 1, 0, 0)


def test_each_text_encoder_of_its_own() -> None:
    resolved = resolve("<lora:x:0.5:te2=0.9>", SDXL)
    assert at(resolved, "text_encoder", "all") == (0.5,) * 4
    assert at(resolved, "text_encoder_2", "all") == (0.9,) * 4
    only = resolve("<lora:x:0.5:module=te>", SDXL)
    assert {region.component for region in only.plan.adapters[0].strengths} == {
        "text_encoder",
        "text_encoder_2",
    }
    second = resolve("<lora:x:0.5:module=te2,unet>", SDXL)
    assert {region.component for region in second.plan.adapters[0].strengths} == {"text_encoder_2", "unet"}


def test_second_pass() -> None:
    prompt = "<lora:x:0.5:in=0.1:hrte=0.7:hr=0.9>"
    first, second = resolve(prompt), resolve(prompt, hires=True)
    assert at(first, "text_encoder", "all") == (0.5,) * 4
    assert at(first, "unet", "in", 3) == (0.1,) * 4
    assert at(second, "text_encoder", "all") == (0.7,) * 4
    assert at(second, "unet", "in", 3) == (0.9,) * 4
    same = resolve("<lora:x:0.5:in=0.1:hrte=0.7>", hires=True)
    assert at(same, "unet", "in", 3) == (0.1,) * 4
    assert at(same, "unet", "mid", 12) == (0.5,) * 4


def test_default_strength_of_adapter_before_setting() -> None:
    own = {"x": AdapterRef(name="x", sha256="x", default_strength=0.6)}
    tag = parse("<lora:x>").tags
    assert at(plan(tag, own, SD1, 1, default_strength=0.8), "text_encoder", "all") == (0.6,)
    assert at(plan(tag, REFS, SD1, 1, default_strength=0.8), "text_encoder", "all") == (0.8,)


def test_dyn_makes_entries_of_its_own() -> None:
    resolved = resolve("<lora:x:1:dyn=4> <lora:x:1> <lora:x:0.5:0.5:4>")
    assert [(entry.sha256, entry.max_rank) for entry in resolved.plan.adapters] == [("x", 4), ("x", None)]
    assert at(resolved, "text_encoder", "all") == (2.5,) * 4


def test_nothing_is_kept_of_a_tag_that_is_zero() -> None:
    for prompt in ("<lora:x:0>", "<lora:x:1:start=9>", "<lora:x:1:lbw=NONE>", "<lora:x:1> <lora:X:-1>"):
        resolved = resolve(prompt)
        assert resolved.plan.adapters == ()
        assert "left out" in resolved.notes[-1]
    resolved = resolve("<lora:x:1:module=unet>")
    assert Region("text_encoder", "all", -1) not in resolved.plan.adapters[0].strengths


@pytest.mark.parametrize(
    ("file_name", "chosen"),
    [
        ("wan_high.safetensors", "transformer"),
        ("wan-low.safetensors", "transformer_2"),
        ("WAN22_HighNoise_v1.safetensors", "transformer"),
        ("low_noise_model.safetensors", "transformer_2"),
        ("high_noise.safetensors", "transformer"),
        ("highres_fix.safetensors", None),
        ("slow_motion.safetensors", None),
        ("high contrast.safetensors", None),
        ("wan_high_low.safetensors", None),
        ("yellow_noise.safetensors", None),
        ("ink.safetensors", None),
    ],
)
def test_expert_by_file_name(file_name: str, chosen: str | None) -> None:
    ref = AdapterRef(name="x", sha256="x", file_name=file_name)
    assert expert(ref, WAN) == chosen
    assert expert(ref, FLUX) is None


def test_expert_only_when_the_tag_chooses_none() -> None:
    refs = {"x": AdapterRef(name="x", sha256="x", file_name="x_high_noise.safetensors")}

    def denoisers(prompt: str) -> set[str]:
        resolved = plan(parse(prompt).tags, refs, WAN, 2)
        return {r.component for r in resolved.plan.adapters[0].strengths if r.component != "text_encoder"}

    assert denoisers("<lora:x:1>") == {"transformer"}
    assert denoisers("<lora:x:1:low>") == {"transformer_2"}
    assert denoisers("<lora:x:1:module=unet>") == {"transformer", "transformer_2"}
    assert "file's name" in plan(parse("<lora:x:1>").tags, refs, WAN, 2).notes[0]


@pytest.mark.parametrize(
    ("word", "note"),
    [("low", "the file chooses transformer_2"), ("both", ""), ("", "so both get it; write high or low")],
)
def test_the_file_itself_may_say_which_expert_it_is_for(word: str, note: str) -> None:
    refs = {"x": AdapterRef(name="x", sha256="x", expert=word)}
    resolved = plan(parse("<lora:x:1>").tags, refs, WAN, 2)
    found = {r.component for r in resolved.plan.adapters[0].strengths if r.component != "text_encoder"}
    assert found == ({"transformer_2"} if word == "low" else {"transformer", "transformer_2"})
    assert " ".join(resolved.notes).endswith(note)
    assert bool(resolved.notes) == bool(note)
    assert not plan(parse("<lora:x:1:high>").tags, refs, WAN, 2).notes
    assert not plan(parse("<lora:x:1>").tags, refs, FLUX, 2).notes


@pytest.mark.parametrize(
    ("prompt", "layout", "code", "item", "hint"),
    [
        ("<lora:inc:1>", SD1, "unknown_adapter", "inc", "did you mean 'ink'?"),
        ("<lora:zzzzzz:1>", SD1, "unknown_adapter", "zzzzzz", "check the name"),
        ("<lora:x:te2=1>", SD1, "missing_component", "te2=1", "text_encoder, unet"),
        ("<lora:x:1:low>", SD1, "missing_component", "low", "text_encoder, unet"),
        ("<lora:x:1:module=transformer>", SD1, "missing_component", "module=transformer", "unet"),
        ("<lora:x:1:module=text_encoder_2>", SD1, "missing_component", "module=text_encoder_2", "unet"),
        ("<lora:x:1:lbw=1,0,1>", SD1, "lbw_length", "lbw=1,0,1", "17 or 26"),
        ("<lora:x:1:lbw=1,0,1>", SDXL, "lbw_length", "lbw=1,0,1", "12 or 20"),
        ("<lora:x:1:lbw=1,0,1>", FLUX, "lbw_length", "lbw=1,0,1", "61"),
        ("<lora:x:1:lbw=1,0,1>", DEMO, "lbw_length", "lbw=1,0,1", "10"),
        ("<lora:x:1:lbw=FOO>", SD1, "unknown_preset", "lbw=FOO", "INALL"),
        ("<lora:x:1:blocks=20-25=1>", SD1, "missing_block", "blocks=20-25=1", "0 to 24"),
        ("<lora:x:0@0,1@9>", SD1, "bad_position", "0@0,1@9", "loractl"),
        ("<lora:x:1:0@3,1@0.1>", SD1, "positions_do_not_rise", "0@3,1@0.1", "one unit"),
        ("<lora:x:1:start=4:stop=10%>", SD1, "bad_window", "start=4", "one unit"),
    ],
)
def test_errors_of_a_tag_on_a_model(prompt: str, layout: Layout, code: str, item: str, hint: str) -> None:
    (problem,) = refusal(f"a fox {prompt}", layout).problems
    assert (problem.code, problem.item, problem.tag) == (code, item, prompt)
    assert f"a fox {prompt}"[problem.column - 1 :].startswith(item)
    assert hint in problem.hint


def test_errors_of_several_tags_come_together() -> None:
    assert [p.item for p in refusal("<lora:inc> <lora:x:te2=1:lbw=1,2> <lora:wosh>").problems] == [
        "inc",
        "te2=1",
        "lbw=1,2",
        "wosh",
    ]
    assert "watercolour" in refusal("<lora:watercolor>", known_names=["watercolour"]).hint
    assert refusal("<lora:x>", steps=0).code == "bad_steps"


def test_names_are_found_without_case_and_ending() -> None:
    assert find(REFS, "INK") == find(REFS, "ink.safetensors") == REFS["ink"]
    assert find(REFS, "inc") is None


def test_notes_say_what_may_surprise() -> None:
    assert "gets 0.5 from te; write unet=0.9" in resolve("<lora:x:0.9:te=0.5>").notes[0]
    assert "gets 0.5 from te" in resolve("<lora:x:te=0.5>").notes[0]
    assert "one point" in resolve("<lora:x:0.5@3>").notes[0]
    for prompt in ("<lora:x:0.5>", "<lora:x:0.5:1>", "<lora:x:te=0.5:unet=1>", "<lora:x:te=0.5:module=te>"):
        assert resolve(prompt).notes == ()
