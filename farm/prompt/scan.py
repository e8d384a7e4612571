"""Finds the tags in a prompt in one pass, and closes the gaps that they leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: A blank or a comma beside a tag belongs to the gap.
_GAP = " \t\r\n,"


@dataclass(frozen=True, slots=True)
class Span:
    """A tag as it stands in the text: indices from 0, `end` behind the `>`; `colons` are those inside it."""

    begin: int
    end: int
    colons: tuple[int, ...]
    #: False when `>` is missing; then the tag ends before the next `<` or with the text
    closed: bool


def scan(text: Iterable[str], kinds: frozenset[str]) -> list[Span]:
    """Return the tags of `kinds` in `text`, in order. Each character is looked at once, none is read twice.

    >>> scan("a <b> <lora:x:1>", frozenset({"lora"}))
    [Span(begin=6, end=16, colons=(11, 13), closed=True)]
    """
    found: list[Span] = []
    longest = max(map(len, kinds))
    begin, known = -1, False
    word: list[str] = []
    colons: list[int] = []
    index = -1
    for index, char in enumerate(text):
        if char == "<":
            if known:
                found.append(Span(begin, index, tuple(colons), closed=False))
            begin, known, word, colons = index, False, [], []
        elif begin < 0:
            continue
        elif char == ">":
            if known:
                found.append(Span(begin, index + 1, tuple(colons), closed=True))
            begin, known = -1, False
        elif known:
            if char == ":":
                colons.append(index)
        elif char == ":":
            known = "".join(word).strip().casefold() in kinds
            if known:
                colons.append(index)
            else:
                begin = -1
        elif char.isspace() and (not word or word[-1] == " "):
            if not word:
                continue
        elif len(word) <= longest:
            word.append(" " if char.isspace() else char)
        else:
            begin = -1
    if known:
        found.append(Span(begin, index + 1, tuple(colons), closed=False))
    return found


def close_gaps(segments: Sequence[str]) -> str:
    """Join what stood between tags so that no blank or comma is doubled where a tag was.

    >>> close_gaps(["a fox, ", ", in ink ", ""])
    'a fox, in ink'
    """
    if len(segments) == 1:
        return segments[0]
    parts: list[str] = []
    gap: list[str] = []
    last = len(segments) - 1
    for number, segment in enumerate(segments):
        core = segment.strip(_GAP)
        if not core:
            gap.append(segment)
            continue
        lead = segment[: len(segment) - len(segment.lstrip(_GAP))]
        trail = segment[len(lead) + len(core) :]
        if number == 0:
            parts.append(lead)
        elif parts:
            parts.append(_bridge("".join(gap) + lead))
        parts.append(core)
        gap = [trail]
        if number == last:
            parts.append(trail)
    return "".join(parts)


def _bridge(gap: str) -> str:
    comma = "," if "," in gap else ""
    blank = "\n" if "\n" in gap else " " if gap.strip(",") else ""
    return comma + blank
