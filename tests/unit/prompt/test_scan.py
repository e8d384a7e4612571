"""The scanner reads each character once and never more; gaps close."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import BadRequest, Problem
from farm.prompt import scan as scanner
from farm.prompt.scan import close_gaps, scan
from farm.prompt.tag import KINDS
from farm.prompt.tags import MOST_PROBLEMS, ParsedPrompt, parse

NASTY = st.text(alphabet='<<<:::>>>,;@~%=-"lora yctin.05@\n\u00e9\U0001f600', max_size=4000)
WORDS = st.lists(
    st.sampled_from(
        [
            "<lora:",
            "<LYCO :",
            "<loractl:x",
            "<b>",
            ">",
            ":",
            "te=",
            "0.5@1,",
            "0.5",
            "lbw=",
            "1,",
            "in",
            " ",
            ",",
            "blocks=0-5=1/",
        ]
    ),
    max_size=300,
).map("".join)


@settings(max_examples=200)
@given(st.one_of(NASTY, WORDS, st.text(max_size=4000)))
def test_any_text_gives_a_prompt_or_one_error(text: str) -> None:
    parsed, problems = outcome(text)
    assert (parsed is None) == bool(problems)
    assert len(problems) <= MOST_PROBLEMS
    for problem in problems:
        assert problem.message
        assert problem.hint
        assert problem.tag
        assert 1 <= problem.column <= len(text) + 1
        assert text[problem.column - 1 :].startswith(problem.item[:50])
    if parsed is not None:
        assert len(parsed.text) <= len(text)
        assert parsed.tags or parsed.text == text


def outcome(text: str) -> tuple[ParsedPrompt | None, tuple[Problem, ...]]:
    try:
        return parse(text), ()
    except BadRequest as refused:
        return None, refused.problems


class OneReading:
    """A text that counts how often a character is taken from it."""

    def __init__(self, text: str):
        self.text, self.taken = text, 0

    def __iter__(self) -> Any:
        for char in self.text:
            self.taken += 1
            yield char


HOSTILE = [
    "<",
    ":",
    "<lora:",
    "<lora:x:",
    "<lora:x:1>",
    "< lora",
    "<loraaaa",
    "<<:>",
    "te=1:",
    ",",
    " ",
    "<  ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_scanner_takes_each_character_once(unit: str) -> None:
    text = OneReading(unit * 500)
    scan(text, frozenset(KINDS))
    assert text.taken == len(text.text)


def operations(text: str) -> int:
    """Lines of the package that run while `text` is parsed: a cost that does not depend on the machine."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if "prompt" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parse(text)
    except BadRequest:
        pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "unit", [*HOSTILE, "<lora:x:0.5@1,>", "<lora:x:lbw=1,1,1>", "<lora:x:te=1,1,1,1,1:in=>"]
)
def test_cost_doubles_with_length(unit: str) -> None:
    short, long = operations(unit * 200), operations(unit * 400)
    assert long <= 2.2 * short + 200


def test_one_long_item_costs_by_its_length() -> None:
    for item in ("1,", "1@1;", "0-1=1/", "te,"):
        for key in ("", "te=", "lbw=", "blocks=", "module="):
            short, long = (operations(f"<lora:x:{key}{item * times}>") for times in (1000, 2000))
            assert long <= 2.2 * short + 200


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("a fox <lora:x:1> in ink", "a fox in ink"),
        ("a fox, <lora:x:1>, in ink", "a fox, in ink"),
        ("a fox,<lora:x:1>,in ink", "a fox,in ink"),
        ("a fox, <lora:x:1> <lora:y:1>, in ink", "a fox, in ink"),
        ("<lora:x:1>, a fox", "a fox"),
        ("a fox, <lora:x:1>", "a fox"),
        ("<lora:x:1>", ""),
        (" <lora:x:1> , ", ""),
        ("a<lora:x:1>b", "ab"),
        ("line one\n<lora:x:1>\nline two", "line one\nline two"),
        ("(a fox:1.2), <b> <lora:x:1> <hypernet:y:1>", "(a fox:1.2), <b> <hypernet:y:1>"),
        ("a,, b  c", "a,, b  c"),
        ("  a <lora:x:1> b  ", "  a b  "),
        ("<lora> a < b, c > d :", "<lora> a < b, c > d :"),
        ("a <3 <lora:x:1> b", "a <3 b"),
        ("a <lora :x:1> b", "a b"),
    ],
)
def test_gaps(prompt: str, cleaned: str) -> None:
    assert parse(prompt).text == cleaned


@given(st.lists(st.text(alphabet="ab ,\n", max_size=12), min_size=1, max_size=6))
def test_closing_gaps_keeps_words_and_doubles_nothing_at_a_gap(segments: list[str]) -> None:
    joined = close_gaps(segments)
    words = lambda text: [c for c in text if c in "ab"]  # noqa: E731
    assert words(joined) == words("".join(segments))
    clean = [segment.strip(" ,\n") for segment in segments]
    if len(segments) > 1 and all("," not in word and " " not in word and "\n" not in word for word in clean):
        inner = joined.strip(" ,\n")
        assert not any(doubled in inner for doubled in (",,", "  ", "\n\n", ", ,"))


def test_module_has_no_regular_expression() -> None:
    """A hand-written scanner cannot backtrack."""
    assert not hasattr(scanner, "re")
