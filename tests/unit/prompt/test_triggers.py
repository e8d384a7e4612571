"""Trigger words in a prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.prompt.triggers import insert

INK = ("ink style", "Black", "wash")


@pytest.mark.parametrize(
    ("prompt", "apply", "expected"),
    [
        ("a fox", 0, "a fox"),
        ("a fox", 1, "a fox, ink style"),
        ("a fox", -1, "a fox, ink style, Black, wash, paper"),
        ("a fox, ", 2, "a fox, ink style, Black, paper"),
        ("a black fox", -1, "a black fox, ink style, wash, paper"),
        ("a blackbird", 2, "a blackbird, ink style, Black, paper"),
        ("_tags_, a fox", 1, "ink style, paper, a fox"),
        ("a fox, _tags_, night", 1, "a fox, ink style, paper, night"),
        ("a fox _tags_", 1, "a fox, ink style, paper"),
        ("a fox, _tags_, night", 0, "a fox, night"),
        ("_tags_", 0, ""),
        ("", 1, "ink style, paper"),
        ("a, _tags_, b, _tags_", 1, "a, ink style, paper, b"),
    ],
)
def test_examples(prompt: str, apply: int, expected: str) -> None:
    words = [INK, ("paper",)] if "paper" in expected else [INK]
    assert insert(prompt, words, apply) == expected


def test_words_of_two_adapters_are_not_repeated() -> None:
    assert insert("a", [["ink"], ["INK", "(wet)"]], -1) == "a, ink, (wet)"


@given(
    st.text(max_size=200), st.lists(st.lists(st.text(max_size=8), max_size=4), max_size=3), st.integers(-1, 3)
)
def test_any_prompt_loses_its_places_and_twice_changes_nothing(
    prompt: str, words: list[list[str]], apply: int
) -> None:
    once = insert(prompt, words, apply)
    if not any("_" in word for each in words for word in each) and "__" not in prompt:
        assert "_tags_" not in once
    if apply == 0 and "_tags_" not in prompt:
        assert once == prompt
