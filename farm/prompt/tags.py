"""Reads the tags in a prompt: `<lora:ink:0.8>`, its kinds and all their keys.

Decisions where the language leaves room:

- Quotes and blanks around a name are dropped; they do not protect a `:` or `>` inside it.
- Keys, `high` and `low` do not care about case. A key given twice is an error, as is an empty item.
- A tag of a known kind that is not closed is an error; `<lora>` without a name is text.
- A blank or comma that stood only beside a tag goes with it: `a fox, <lora:ink:1>` leaves `a fox`.
- `module=te` means all text encoders, `module=text_encoder` (or `te1`) the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from farm.errors import BadRequest, Problem
from farm.prompt import keys
from farm.prompt.curves import Curve
from farm.prompt.mistakes import Mistake, problem, shown
from farm.prompt.numbers import read_count
from farm.prompt.scan import Span, close_gaps, scan
from farm.prompt.tag import KINDS, Item, Tag

MOST_ITEMS = 40
MOST_PROBLEMS = 50
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPrompt:
    """A prompt without its tags, and the tags."""

    text: str
    tags: tuple[Tag, ...]


def parse(text: str, *, max_tags: int = 64) -> ParsedPrompt:
    """Take the tags out of a prompt. Cost grows with the length of `text`, never faster.

    >>> parsed = parse("a fox, <lora:ink:0.8>, at night")
    >>> parsed.text, parsed.tags[0].name
    ('a fox, at night', 'ink')

    Raises:
        BadRequest: with one Problem for each mistake (the first 50), which names tag, item and column.
    """
    spans = scan(text, frozenset(KINDS))
    if not spans:
        return ParsedPrompt(text=text, tags=())
    problems: list[Problem] = []
    tags: list[Tag] = []
    segments: list[str] = []
    behind = 0
    for number, span in enumerate(spans):
        segments.append(text[behind : span.begin])
        behind = span.end
        if number >= max_tags:
            problems.append(_too_many(text, span, len(spans), max_tags))
            break
        if not span.closed:
            problems.append(_not_closed(text, span))
        else:
            tag = _read_tag(text, span, problems)
            if tag is not None:
                tags.append(tag)
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise BadRequest.of(tuple(problems[:MOST_PROBLEMS]))
    segments.append(text[behind:])
    return ParsedPrompt(text=close_gaps(segments), tags=tuple(tags))


def parse_tag(text: str) -> Tag:
    """Read the one tag that `text` is.

    >>> parse_tag("<lora:ink:te=0.5:unet=1.5>").curves["unet"].values(2)
    (1.5, 1.5)

    Raises:
        BadRequest: a mistake, or something else than one tag.
    """
    parsed = parse(text, max_tags=1)
    if len(parsed.tags) != 1 or parsed.text:
        raise BadRequest(f"{shown(text)} is not one tag", "write <lora:name:strength>", code="bad_tag")
    return parsed.tags[0]


def _read_tag(text: str, span: Span, problems: list[Problem]) -> Tag | None:
    """The tag at `span`, or None after appending what is wrong with it."""
    source = text[span.begin : span.end]
    before = len(problems)
    borders = (*span.colons, span.end - 1)
    kind = KINDS[text[span.begin + 1 : borders[0]].strip().casefold()]

    def complain(mistake: Mistake, item: str, column: int) -> None:
        problems.append(problem(mistake, source, item, column))

    pieces = [(text[a + 1 : b], a + 1) for a, b in pairwise(borders)]
    (raw_name, name_at), raw_items = pieces[0], pieces[1:]
    name = raw_name.strip('" \t\r\n')
    name_column = name_at + 1 + (len(raw_name) - len(raw_name.lstrip('" \t\r\n')) if name else 0)
    if not name or not name.strip():
        complain(
            Mistake("no_name", "the tag names no adapter", "write <lora:name:0.8>"), raw_name, name_column
        )
    elif len(name) > _LONGEST_NAME:
        too_long = f"the name has {len(name)} characters"
        complain(Mistake("bad_name", too_long, f"names have at most {_LONGEST_NAME}"), name, name_column)
    if len(raw_items) > MOST_ITEMS:
        too_many = f"the tag has {len(raw_items)} items"
        hint = f"a tag has at most {MOST_ITEMS}"
        complain(
            Mistake("too_many_items", too_many, hint), raw_items[MOST_ITEMS][0], raw_items[MOST_ITEMS][1] + 1
        )
        raw_items = raw_items[:MOST_ITEMS]
    fields: dict[str, Any] = {"curves": {}}
    items: list[Item] = []
    positionals = 0
    for raw, at in raw_items:
        item = raw.strip()
        column = at + 1 + len(raw) - len(raw.lstrip())
        key, value = keys.split(item)
        is_positional = not key
        if is_positional:
            key = ("first", "second", "dyn", "")[min(positionals, 3)]
            positionals += 1
        try:
            _read_item(fields, key, value, loractl=kind == "loractl", positional=is_positional)
        except Mistake as mistake:
            complain(mistake, item, column)
            continue
        items.append(Item(key, item, column, column + len(item)))
    if len(problems) > before:
        return None
    return Tag(
        kind=kind,
        name=name,
        column=span.begin + 1,
        end=span.end + 1,
        source=source,
        name_column=name_column,
        items=tuple(items),
        **fields,
    )


def _read_item(fields: dict[str, Any], key: str, value: str, *, loractl: bool, positional: bool) -> None:
    if positional:
        if not key:
            raise Mistake(
                "too_many_positionals",
                f"{shown(value)} is a fourth value without a key",
                "the values are text encoders, denoiser, ranks; name what this one is: unet=…, lbw=…",
            )
        if not value:
            raise Mistake("empty_item", "an item is empty", "remove the extra ':'")
        _refuse_words(value)
        found: Any
        if key == "dyn":
            found = read_count(value, "the third value (dyn)", least=1, most=keys.MOST_RANKS)
        else:
            found = Curve.parse(value, loractl=loractl)
        _keep(fields, key, found)
        return
    for name, found in keys.read(key, value, loractl=loractl):
        if name in keys.CURVES:
            _keep(fields["curves"], name, found)
        else:
            _keep(fields, name, found)
    keys.check_window(fields.get("start"), fields.get("stop"))


def _keep(fields: dict[str, Any], name: str, found: object) -> None:
    if name in fields:
        raise Mistake("given_twice", f"{keys.public(name)} is given twice", "keep one of them")
    fields[name] = found


def _refuse_words(value: str) -> None:
    """A word where a strength should stand is answered with what it may have meant."""
    if (
        value[0].isalpha()
        and not any(sign in value for sign in "@~,;")
        and value.casefold()
        not in (
            "nan",
            "inf",
            "infinity",
        )
    ):
        raise Mistake("unknown_item", f"{shown(value)} is neither a strength nor a key", keys.advice(value))


def _not_closed(text: str, span: Span) -> Problem:
    source = text[span.begin : span.end].rstrip()
    mistake = Mistake("unclosed_tag", "the tag is not closed", "write '>' at its end")
    return problem(mistake, source, source, span.begin + 1)


def _too_many(text: str, span: Span, count: int, most: int) -> Problem:
    source = text[span.begin : span.end]
    mistake = Mistake("too_many_tags", f"the prompt has {count} tags", f"a prompt has at most {most}")
    return problem(mistake, source, source, span.begin + 1)
