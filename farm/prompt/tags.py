"""Reads the tags in a prompt and writes them: `<lora:ink:0.8>`, its kinds and all their keys.

Decisions where the language leaves room:

- Quotes and blanks around a name are dropped; they do not protect a `:` or `>` inside it.
- Keys, `high` and `low` do not care about case. A key given twice is an error, as is an empty item.
- A tag of a known kind that is not closed is an error; `<lora>` without a name is text.
- A blank or comma that stood only beside a tag goes with it: `a fox, <lora:ink:1>` leaves `a fox`.
- `module=te` means all text encoders, `module=text_encoder` (or `te1`) the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from farm.errors import BadRequest, Problem
from farm.prompt import keys
from farm.prompt.blocks import BlockRange, Lbw
from farm.prompt.curves import Curve, Position
from farm.prompt.mistakes import Mistake, shown
from farm.prompt.numbers import read_count
from farm.prompt.scan import Span, close_gaps, scan

Kind = Literal["lora", "lyco", "loractl"]
KINDS: Mapping[str, Kind] = {"lora": "lora", "lyco": "lyco", "loractl": "loractl"}

MOST_ITEMS = 40
MOST_PROBLEMS = 50
_LONGEST_NAME = 200
_LONGEST_QUOTE = 200


@dataclass(frozen=True, slots=True)
class Item:
    """One item as written: `te=0.5` has the key `te`, a positional has the key `first`, `second` or `dyn`."""

    key: str
    text: str
    #: column of its first and behind its last character, counted from 1
    column: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One tag, checked as far as that is possible without a model. Equal tags say the same in the same way."""

    kind: Kind
    name: str
    #: first and second positional
    first: Curve | None = None
    second: Curve | None = None
    #: by key: te, te1, te2, te3, unet, in, mid, out, hr, hrte, hrunet
    curves: Mapping[str, Curve] = field(default_factory=dict)
    #: third positional or `dyn`
    dyn: int | None = None
    #: normal words of `module`: `te`, `unet` or a component's name; () for all
    modules: tuple[str, ...] = ()
    lbw: Lbw | None = None
    blocks: tuple[BlockRange, ...] = ()
    start: Position | None = None
    stop: Position | None = None
    #: first column of the tag, and the one behind it, counted from 1
    column: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    #: the tag as written
    source: str = field(default="", compare=False)
    name_column: int = field(default=0, compare=False)
    items: tuple[Item, ...] = field(default=(), compare=False)

    @property
    def span(self) -> tuple[int, int]:
        """First column and the one behind the last, counted from 1."""
        return (self.column, self.end)

    @property
    def zero_based(self) -> bool:
        """Whether its curves are read as loractl reads them."""
        return self.kind == "loractl"

    def item(self, *wanted: str) -> Item | None:
        """The first written item with one of the keys `wanted`."""
        return next((item for item in self.items if item.key in wanted), None)

    def problem(self, mistake: Mistake, *wanted: str) -> Problem:
        """`mistake` with the place of the item `wanted`; of the name when there is no such item."""
        item = self.item(*wanted)
        text, column = (item.text, item.column) if item else (self.name, self.name_column)
        return Problem(
            code=mistake.code,
            message=mistake.message,
            hint=mistake.hint,
            pointer="/prompt",
            tag=_quoted(self.source or format_tag(self)),
            item=_quoted(text),
            column=column,
        )


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


def normal(tag: Tag) -> Tag:
    """The same meaning in the form that `format_tag` writes.

    One strength stands as first positional. Where text encoders and denoiser differ, both are named,
    because `te=0.5` alone also gives the denoiser 0.5.
    """
    curves = dict(tag.curves)
    te = curves.pop("te", None) or tag.first
    unet = curves.pop("unet", None) or tag.second
    if te is not None and unet in (None, te):
        return replace(tag, first=te, second=None, curves=curves)
    if te is not None:
        curves["te"] = te
    if unet is not None:
        curves["unet"] = unet
    return replace(tag, first=None, second=None, curves=curves)


def format_tag(tag: Tag) -> str:
    """Write a tag so that it reads as `normal(tag)`.

    >>> format_tag(parse_tag('<lora:"ink":0.9:te=0.5>'))
    '<lora:ink:0.5>'
    >>> format_tag(parse_tag("<lora:ink:0.5:1.5>"))
    '<lora:ink:te=0.5:unet=1.5>'
    """
    tag = normal(tag)
    parts: list[str] = [tag.kind, tag.name]
    if tag.first is not None:
        parts.append(str(tag.first))
    parts += [f"{key}={tag.curves[key]}" for key in keys.CURVES if key in tag.curves]
    if tag.modules:
        parts.append(f"module={','.join(tag.modules)}")
    if tag.lbw is not None:
        parts.append(f"lbw={tag.lbw}")
    if tag.blocks:
        parts.append(f"blocks={'/'.join(map(str, tag.blocks))}")
    parts += [
        f"{key}={place}" for key, place in (("start", tag.start), ("stop", tag.stop)) if place is not None
    ]
    if tag.dyn is not None:
        parts.append(f"dyn={tag.dyn}")
    return f"<{':'.join(parts)}>"


def _read_tag(text: str, span: Span, problems: list[Problem]) -> Tag | None:
    """The tag at `span`, or None after appending what is wrong with it."""
    source = text[span.begin : span.end]
    before = len(problems)
    borders = (*span.colons, span.end - 1)
    kind = KINDS[text[span.begin + 1 : borders[0]].strip().casefold()]

    def complain(mistake: Mistake, item: str, column: int) -> None:
        problems.append(
            Problem(
                code=mistake.code,
                message=mistake.message,
                hint=mistake.hint,
                pointer="/prompt",
                tag=_quoted(source),
                item=_quoted(item),
                column=column,
            )
        )

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
    source = text[span.begin : span.end]
    return Problem(
        code="unclosed_tag",
        message="the tag is not closed",
        hint="write '>' at its end",
        pointer="/prompt",
        tag=_quoted(source.rstrip()),
        item=_quoted(source.rstrip()),
        column=span.begin + 1,
    )


def _too_many(text: str, span: Span, count: int, most: int) -> Problem:
    source = _quoted(text[span.begin : span.end])
    return Problem(
        code="too_many_tags",
        message=f"the prompt has {count} tags",
        hint=f"a prompt has at most {most}",
        pointer="/prompt",
        tag=source,
        item=source,
        column=span.begin + 1,
    )


def _quoted(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"
