"""Rows of a naming table: a name as files write it, and the layers whose weights it stands for, one below the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from farm.lora.layout import Layer, Rows

#: what a name of a file changes: its outputs in order, as rows of our layers
Target = tuple[Rows, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """`{}` stands for a number, `{*}` for any rest, the same in both."""

    theirs: str
    ours: tuple[str, ...]
    #: theirs has shift before scale, ours scale before shift. It holds for layers that make these two alone
    swapped: bool = False


def under(theirs: str, ours: str, names: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows for names inside a block. Several layers of ours stand for one weight of theirs that is cut from top to
    bottom; `~` marks one with its halves exchanged.

    >>> under("blocks.{}.", "layers.{}.", {"qkv": "to_q to_k to_v"})
    (Row(theirs='blocks.{}.qkv', ours=('layers.{}.to_q', 'layers.{}.to_k', 'layers.{}.to_v'), swapped=False),)
    """
    return tuple(
        Row(theirs + name, tuple(ours + path for path in paths.removeprefix("~").split()), paths[0] == "~")
        for name, paths in names.items()
    )


def targets(layers: Mapping[str, Layer], rows: Iterable[Row]) -> Iterator[tuple[str, Target]]:
    """(name of a file, what it changes) for every row that the layers (by path) can fill."""
    for row in rows:
        start = row.ours[0].partition("{")[0]
        pattern = re.compile(_regex(row.ours[0]))
        for path in layers:
            found = pattern.fullmatch(path) if path.startswith(start) else None
            if found is None:
                continue
            parts = [layers.get(_fill(ours, found.groups())) for ours in row.ours]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                yield _fill(row.theirs, found.groups()), _target(whole, row.swapped)


def own(layer: Layer) -> Target:
    """The target of a layer's own name."""
    return (Rows(layer.name, 0, layer.shape[0]),)


def _target(parts: list[Layer], swapped: bool) -> Target:
    first = parts[0]
    if swapped and first.shape[0] == 2 * first.shape[1]:
        half = first.shape[1]
        return Rows(first.name, half, 2 * half), Rows(first.name, 0, half)
    return tuple(Rows(part.name, 0, part.shape[0]) for part in parts)


def _regex(template: str) -> str:
    return re.escape(template).replace(r"\{\}", r"(\d+)").replace(r"\{\*\}", "(.+)")


def _fill(template: str, groups: tuple[str, ...]) -> str:
    for group in groups:
        template = re.sub(r"\{\*?\}", lambda _, g=group: g, template, count=1)  # type: ignore[misc]
    return template
