"""What commands print: JSON for programs, rich tables and progress bars for people on a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: nothing in a text is markup: prompts hold brackets, and `:candy:` in a tag is no emoji
console = Console(highlight=False, markup=False, emoji=False)

STATE_STYLES = {
    "queued": "dim",
    "assigned": "dim",
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "strike dim",
}


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))  # noqa: T201 - the answer


def say(*parts: str | tuple[str, str] | Text) -> None:
    """Print one line of texts, of which some are (text, style)."""
    console.print(Text.assemble(*parts), soft_wrap=True)


def styled_state(state: str) -> Text:
    return Text(state, STATE_STYLES.get(state, ""))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print rows, or the sentence `empty` that says what to do next."""
    if not rows:
        console.print(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold dim")
    for position, column in enumerate(columns):
        # the first one names the row: cut in two, it could not be copied
        grid.add_column(column, overflow="fold", no_wrap=position == 0)
    for row in rows:
        grid.add_row(*("" if cell is None else cell if isinstance(cell, Text) else str(cell) for cell in row))
    console.print(grid)


def size(count: float) -> str:
    """Bytes as people read them.

    >>> size(999), size(21_000_000)
    ('999 B', '21.0 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def compact(values: Sequence[float]) -> str:
    """Strengths of consecutive steps, equal neighbours drawn together.

    >>> compact([0.1] * 5 + [0.6] * 15)
    '0.1 (1-5)  0.6 (6-20)'
    """
    parts: list[str] = []
    start = 0
    for position in range(1, len(values) + 1):
        if position == len(values) or values[position] != values[start]:
            span = f"{start + 1}" if position == start + 1 else f"{start + 1}-{position}"
            parts.append(f"{values[start]:g} ({span})")
            start = position
    return parts[0].split(" ")[0] if len(parts) == 1 else "  ".join(parts)


def shortened(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def networks_line(networks: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(network["name"]) for network in networks)
