"""Every tag in the pages about the language means what the language says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from farm.errors import BadRequest
from farm.prompt import keys
from farm.prompt.blocks import PRESETS
from farm.prompt.explain import explain, generic_layout
from tests.unit.prompt.models import WAN

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("reference/tag-language.md", "howto/stepwise.md")
TAG = re.compile(r"<(?:lora|lyco|loractl):[^<>…]+>")


def written() -> list[str]:
    found = [tag for page in PAGES for tag in TAG.findall((DOCS / page).read_text(encoding="utf-8"))]
    return [tag for tag in dict.fromkeys(found) if "unett" not in tag]


@pytest.mark.parametrize("tag", written())
def test_tags_in_the_pages_work(tag: str) -> None:
    layout = WAN if ":high" in tag else generic_layout()
    assert explain(tag, layout, 20, adapters=None, model=None)["adapters"]


def test_pages_have_many_tags() -> None:
    assert len(written()) > 15


def test_the_shown_mistakes_are_the_real_ones() -> None:
    page = (DOCS / PAGES[0]).read_text(encoding="utf-8")
    shown = re.search(r"`([^`]+unett[^`]+)` is answered with\n\n((?:    .+\n)+)", page)
    assert shown is not None
    with pytest.raises(BadRequest) as refused:
        explain(shown[1], generic_layout(), 20, adapters=None, model=None)
    assert [line.strip() for line in shown[2].splitlines()] == [p.sentence() for p in refused.value.problems]


def test_every_key_and_preset_is_in_the_reference() -> None:
    page = (DOCS / PAGES[0]).read_text(encoding="utf-8")
    for word in (
        *keys.CURVES,
        *keys.BARE,
        "module",
        "lbw",
        "blocks",
        "start",
        "stop",
        "step",
        "dyn",
        *PRESETS,
    ):
        assert f"`{word}`" in page, word
