"""Reading and writing of tags, and what is answered to wrong ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import BadRequest
from farm.prompt import keys
from farm.prompt.blocks import PRESETS, BlockRange, Lbw
from farm.prompt.curves import Position
from farm.prompt.resolve import AdapterRef, plan
from farm.prompt.tag import Tag, format_tag, normal
from farm.prompt.tags import parse, parse_tag
from tests.unit.prompt.models import SD1
from tests.unit.prompt.test_curves import STRENGTHS, curves

NAMES = st.text(
    alphabet=st.characters(exclude_characters=':<>"', exclude_categories=["Cs"]), min_size=1, max_size=20
)
_STEP = st.integers(1, 30).map(lambda number: Position(float(number), "step"))


@st.composite
def block_ranges(draw: st.DrawFn) -> tuple[BlockRange, ...]:
    borders: Sequence[int] = sorted(draw(st.sets(st.integers(0, 24), max_size=6)))
    pairs = zip(borders[::2], borders[1::2], strict=False)
    return tuple(BlockRange(first, last, draw(STRENGTHS)) for first, last in pairs)


@st.composite
def tags(draw: st.DrawFn) -> Tag:
    name = draw(
        NAMES.map(lambda text: text.strip().strip('" ')).filter(
            lambda text: text and text == text.strip('" \t\r\n')
        )
    )
    kind = draw(st.sampled_from(["lora", "lyco"]))
    window = sorted(draw(st.lists(_STEP, max_size=2)), key=lambda position: position.value)
    return Tag(
        kind=kind,
        name=name,
        first=draw(st.none() | curves()),
        second=draw(st.none() | curves()),
        curves=draw(st.dictionaries(st.sampled_from(keys.CURVES), curves(), max_size=4)),
        dyn=draw(st.none() | st.integers(1, 4096)),
        modules=tuple(
            draw(st.lists(st.sampled_from(["te", "unet", "text_encoder"]), unique=True, max_size=2))
        ),
        lbw=draw(
            st.none()
            | st.sampled_from(sorted(PRESETS)).map(lambda preset: Lbw(preset=preset))
            | st.lists(STRENGTHS, min_size=26, max_size=26).map(lambda numbers: Lbw(factors=tuple(numbers)))
        ),
        blocks=draw(block_ranges()),
        start=window[0] if window else None,
        stop=window[1] if len(window) > 1 else None,
    )


@settings(max_examples=50)
@given(tags())
def test_written_and_read_again_is_the_normal_form(tag: Tag) -> None:
    written = format_tag(tag)
    assert parse_tag(written) == normal(tag)
    assert format_tag(parse_tag(written)) == written
    assert normal(normal(tag)) == normal(tag)


@settings(max_examples=50)
@given(tags(), st.integers(1, 30), st.booleans(), st.booleans())
def test_normal_form_means_the_same(tag: Tag, steps: int, linear: bool, hires: bool) -> None:
    refs = {tag.name.casefold(): AdapterRef(name=tag.name, sha256="x", default_strength=0.7)}

    def resolved(one: Tag) -> object:
        try:
            return plan([one], refs, SD1, steps, linear=linear, hires=hires).plan
        except BadRequest as refused:
            return {problem.code for problem in refused.problems}

    assert resolved(normal(tag)) == resolved(tag)


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ('<lora:"my lora":0.8>', "<lora:my lora:0.8>"),
        ("<LyCo: x : 0.50 >", "<lyco:x:0.5>"),
        ("<lora:x>", "<lora:x>"),
        ("<lora:x:0.5:0.5>", "<lora:x:0.5>"),
        ("<lora:x:0.5:1.5:8>", "<lora:x:te=0.5:unet=1.5:dyn=8>"),
        ("<lora:x:0.9:te=0.5:unet=0.9>", "<lora:x:te=0.5:unet=0.9>"),
        ("<lora:x:unet=2>", "<lora:x:unet=2>"),
        ("<lora:x:1:HIGH>", "<lora:x:1:module=transformer>"),
        ("<lora:x:1:module=te, unet, te>", "<lora:x:1:module=te,unet>"),
        ("<lora:x:1:Step = 5 - 10>", "<lora:x:1:start=5:stop=10>"),
        ("<lora:x:0@0,1@1>", "<lora:x:0@0.0,1@1.0>"),
        ("<loractl:x:0@0,1@10>", "<loractl:x:0@0,1@10>"),
        ("<lora:x:1:lbw=inall:blocks=3-3=0>", "<lora:x:1:lbw=inall:blocks=3=0>"),
    ],
)
def test_writing(source: str, written: str) -> None:
    assert format_tag(parse_tag(source)) == written


def test_columns_and_spans_count_from_1() -> None:
    prompt = "a fox <lora: ink :0.8: te=0.5>"
    tag = parse(prompt).tags[0]
    assert tag.span == (7, 31)
    assert prompt[tag.column - 1 : tag.end - 1] == tag.source == "<lora: ink :0.8: te=0.5>"
    assert prompt[tag.name_column - 1 :].startswith("ink")
    for item in tag.items:
        assert prompt[item.column - 1 : item.end - 1] == item.text


#: what is written -> item, column, a word of the message, a word of the remedy
ERRORS = [
    ("<lora:ink:unett=1>", "unett=1", 11, "unknown key 'unett'", "did you mean 'unet'"),
    ("<lora:ink:0.8:foo=1>", "foo=1", 15, "unknown key 'foo'", "keys are te"),
    ("<lora:ink:hgih>", "hgih", 11, "neither a strength nor a key", "did you mean 'high'"),
    ("<lora:ink:OUTALL>", "OUTALL", 11, "neither a strength nor a key", "lbw=OUTALL"),
    ("<lora:ink:transformer>", "transformer", 11, "neither", "module=transformer"),
    ("<lora:ink:0.8,>", "0.8,", 11, "empty", "strength@position"),
    ("<lora:ink:te=0.5@6,0.4@2>", "te=0.5@6,0.4@2", 11, "do not rise", "order"),
    ("<lora:ink:te=nan>", "te=nan", 11, "not finite", "0.8"),
    ("<lora:ink:1001>", "1001", 11, "out of range", "between -1000 and 1000"),
    ("<lora:ink:1:1:0>", "0", 15, "whole number", "1 … 4096"),
    ("<lora:ink:1:1:1:1>", "1", 17, "fourth value", "lbw"),
    ("<lora:ink::1>", "", 11, "empty", "extra ':'"),
    ("<lora:ink:te=>", "te=", 11, "no value", "te=0.8"),
    ("<lora:ink:te=1:te=2>", "te=2", 16, "twice", "keep one"),
    ("<lora:ink:dyn=4:dyn=5>", "dyn=5", 17, "twice", "keep one"),
    ("<lora:ink:high:module=unet>", "module=unet", 16, "module is given twice", "keep one"),
    ("<lora:ink:start=2:step=3-4>", "step=3-4", 19, "start is given twice", "keep one"),
    ("<lora:ink:step=5>", "step=5", 11, "two ends", "step=5-10"),
    ("<lora:ink:step=9-5>", "step=9-5", 11, "stands after", "step=first-last"),
    ("<lora:ink:start=9:stop=5>", "stop=5", 19, "stands after", "step=first-last"),
    ("<lora:ink:stop=0>", "stop=0", 11, "before the first step", "count from 1"),
    ("<lora:ink:module=uent>", "module=uent", 11, "no component", "did you mean 'unet'"),
    ("<lora:ink:lbw=1,R>", "lbw=1,R", 11, "random", "write the number"),
    ("<lora:ink:lbw=1,x>", "lbw=1,x", 11, "not a number", "0.8"),
    ("<lora:ink:blocks=5>", "blocks=5", 11, "no range", "0-5=0.5"),
    ("<lora:ink:blocks=5-2=1>", "blocks=5-2=1", 11, "backwards", "2-5"),
    ("<lora:ink:blocks=0-5=1/5=0>", "blocks=0-5=1/5=0", 11, "same block", "one factor"),
    ("<lora: :1>", " ", 7, "names no adapter", "<lora:name:0.8>"),
    ("<lora:ink:1", "<lora:ink:1", 1, "not closed", "'>'"),
    ("<lora:ink <lora:b>", "<lora:ink", 1, "not closed", "'>'"),
]


@pytest.mark.parametrize(("tag", "item", "column", "message", "hint"), ERRORS)
def test_errors_name_tag_item_column_and_remedy(
    tag: str, item: str, column: int, message: str, hint: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(f"a fox, {tag}")
    (problem,) = refused.value.problems
    assert tag.startswith(problem.tag)
    assert (problem.item, problem.column) == (item, column + 7)
    assert message in problem.message
    assert hint in problem.hint
    assert problem.pointer == "/prompt"
    assert problem.code
    assert problem.code != "bad_request"


def test_all_mistakes_are_answered_at_once() -> None:
    with pytest.raises(BadRequest) as refused:
        parse("<lora:a:te=x:unett=1> <lora:b:lbw=,> and <lora::1> <lora:c")
    columns = [problem.column for problem in refused.value.problems]
    assert columns == [9, 14, 31, 48, 52]


def test_too_many_tags() -> None:
    assert len(parse("<lora:x:1>" * 64).tags) == 64
    with pytest.raises(BadRequest, match="at most 64") as refused:
        parse("<lora:x:1>" * 70)
    assert refused.value.problems[0].column == 641
    with pytest.raises(BadRequest, match="at most 2"):
        parse("<lora:x:1>" * 3, max_tags=2)


def test_long_tags_are_cut_in_messages() -> None:
    with pytest.raises(BadRequest) as refused:
        parse("<lora:x" + ":te=1" * 5000 + ">")
    for problem in refused.value.problems:
        assert len(problem.tag) + len(problem.item) + len(problem.message) < 600


def test_not_one_tag() -> None:
    for text in ("", "a", "a <lora:x:1>", "<lora:x:1> <lora:y:1>"):
        with pytest.raises(BadRequest):
            parse_tag(text)
