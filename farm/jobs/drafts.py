"""Checked rows of a batch, kept in a temporary file until all of them are known to be right: memory does not grow with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple, Self

#: a smaller batch touches no disk
IN_MEMORY_BYTES = 1024 * 1024
#: wordings that are remembered at a time
KEPT = 1000


class Draft(NamedTuple):
    """One row: what it has in common with all rows of its wording, and what it has of its own."""

    #: columns of `jobs`
    shared: dict[str, Any]
    seed: int
    tags: list[str]
    webhook: str | None
    priority: str


class Drafts:
    """Rows in the order in which they came. Used within `with`; read once all are added.

    The file holds JSON lines: an object is a wording, written when it is first met; a list is a row, which begins with the
    place of its wording among those that are remembered. When there are `KEPT`, all are forgotten and places begin again.
    """

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - closed by `__exit__`
        self._wordings = 0
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def share(self, columns: Mapping[str, Any]) -> int:
        """Write a wording down for rows that follow; returns its place. At place 0, those before are forgotten."""
        place = self._wordings % KEPT
        self._wordings += 1
        self._write(columns)
        return place

    def add(self, place: int, seed: int, tags: list[str], webhook: str | None, priority: str) -> None:
        """One more row of the wording at `place`."""
        self._write([place, seed, tags, webhook, priority])
        self._count += 1

    def __iter__(self) -> Iterator[Draft]:
        self._file.seek(0)
        kept: list[dict[str, Any]] = []
        for line in self._file:
            value = json.loads(line)
            if isinstance(value, list):
                yield Draft(kept[value[0]], *value[1:])
                continue
            if len(kept) == KEPT:
                kept.clear()
            kept.append(value)

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
