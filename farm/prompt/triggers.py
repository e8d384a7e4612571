"""Puts adapters' trigger words into a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from farm.prompt.scan import close_gaps

PLACE = "_tags_"
_EDGE = " ,\t\r\n"


def insert(prompt: str, words_per_adapter: Sequence[Sequence[str]], apply: int) -> str:
    """Put the first `apply` words of each adapter (-1: all, 0: none) where `_tags_` stands, else at the end.

    Words that the prompt has already, in any case, and words of an earlier adapter are not repeated. Every
    `_tags_` disappears, also when there is nothing to put there.

    >>> insert("a fox, _tags_, night", [["ink style", "fox"], ["wash"]], apply=1)
    'a fox, ink style, wash, night'
    >>> insert("a fox", [["ink style", "fox"]], apply=-1)
    'a fox, ink style'
    """
    pieces = prompt.split(PLACE)
    wanted = [words if apply < 0 else words[:apply] for words in words_per_adapter]
    seen: set[str] = set()
    missing: list[str] = []
    text = " ".join(pieces).casefold()
    for words in wanted:
        for word in (raw.strip(" ,") for raw in words):
            if word and word.casefold() not in seen and not _has(text, word.casefold()):
                missing.append(word)
            seen.add(word.casefold())
    words_text = ", ".join(missing)
    if len(pieces) == 1:
        if not words_text:
            return prompt
        begin = prompt.rstrip(_EDGE)
        return f"{begin}, {words_text}" if begin else words_text
    if not words_text:
        return close_gaps(pieces)
    return _join(_join(pieces[0], words_text), close_gaps(["", *pieces[1:]]))


def _join(left: str, right: str) -> str:
    """Both with a comma between them, if there are both."""
    left, right = left.rstrip(_EDGE), right.lstrip(_EDGE)
    return f"{left}, {right}" if left and right else left + right


def _has(text: str, word: str) -> bool:
    """Whether `word` stands in `text` as words of its own."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
