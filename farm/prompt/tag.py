"""One tag as data, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from farm.errors import Problem
from farm.prompt import keys
from farm.prompt.blocks import BlockRange, Lbw
from farm.prompt.curves import Curve, Position
from farm.prompt.mistakes import Mistake, problem

Kind = Literal["lora", "lyco", "loractl"]
KINDS: Mapping[str, Kind] = {"lora": "lora", "lyco": "lyco", "loractl": "loractl"}


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
        return problem(mistake, self.source or format_tag(self), text, column)


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

    >>> from farm.prompt.tags import parse_tag
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
