"""The rows of a batch, read one at a time from CSV or JSON lines.

A row that cannot be read is handed on as one that no job accepts, so that the numbers of the others stay right;
`Rows.problems` then tells what was wrong with it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

from farm.errors import BadRequest, Problem
from farm.jobs.spec import from_text
from farm.web.errors import pointer_of

MAX_ROW_BYTES = 64 * 1024
MAX_PROBLEMS = 1000
#: stands for a row that cannot be read; no field is called that
UNREADABLE: Mapping[str, Any] = {"": None}
#: a cell that begins so is a formula to spreadsheets; an apostrophe before it says that it is none
FORMULA = tuple("=+-@\t\r")


class Rows:
    """Iterates over rows once, and keeps what could not be read."""

    def __init__(self, source: Iterator[Mapping[str, Any] | Problem]):
        self._source = source
        #: mistakes of rows that could not be read, by row
        self.unreadable: dict[int, Problem] = {}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for index, row in enumerate(self._source):
            if isinstance(row, Problem):
                if len(self.unreadable) < MAX_PROBLEMS:
                    self.unreadable[index] = row
                yield UNREADABLE
            else:
                yield row

    def problems(self, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """`found` while checking, with the true reason for rows that could not be read."""
        kept = [problem for problem in found if problem.row not in self.unreadable]
        return tuple(sorted([*kept, *self.unreadable.values()], key=lambda problem: problem.row))


def _unreadable(index: int, message: str, hint: str = "") -> Problem:
    return Problem(code="unreadable_row", message=message, hint=hint, pointer=pointer_of(("rows", index)))


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines of at most `MAX_ROW_BYTES`; the rest of a longer one is dropped and the line comes one byte too long."""
    reader = io.BufferedReader(cast(io.RawIOBase, stream))
    while line := reader.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := reader.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield line


def ndjson(stream: IO[bytes]) -> Rows:
    """A job a line; empty lines do not count."""
    return Rows(_ndjson(stream))


def _ndjson(stream: IO[bytes]) -> Iterator[Mapping[str, Any] | Problem]:
    index = 0
    for number, line in enumerate(_lines(stream), start=1):
        if not line.strip():
            continue
        yield _json_row(line, index, number)
        index += 1


def _json_row(line: bytes, index: int, number: int) -> Mapping[str, Any] | Problem:
    if len(line) > MAX_ROW_BYTES:
        return _unreadable(index, f"line {number} is longer than {MAX_ROW_BYTES} bytes")
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        return _unreadable(index, f"line {number} is no JSON: {error}", "one JSON object a line")
    if not isinstance(row, dict):
        return _unreadable(index, f"line {number} is no JSON object", 'write {"prompt": "…"}')
    return row


def csv_rows(stream: IO[bytes]) -> Rows:
    """A job a row; the first row names the fields, an empty cell means the field's default.

    Raises:
        BadRequest: the first row is missing or names a field twice.
    """
    texts = _texts(_lines(stream))
    first = next(texts, "")
    delimiter = max(",;\t", key=first.count)
    try:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    except csv.Error as error:
        raise BadRequest(f"the first row is no CSV: {error}", "check its quotes", code="malformed") from None
    if not any(names):
        raise BadRequest(
            "the first row names no fields", "start with a row such as: prompt,seed,steps", code="malformed"
        )
    doubled = {name for name in names if name and names.count(name) > 1}
    if doubled:
        raise BadRequest(f"the first row names '{min(doubled)}' twice", "remove one", code="malformed")
    return Rows(_csv(csv.reader(texts, delimiter=delimiter, strict=True), names))


def _texts(lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        # a wrong byte becomes U+FFFD, which `_csv_row` refuses with its row
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")


def _csv(reader: Iterator[list[str]], names: list[str]) -> Iterator[Mapping[str, Any] | Problem]:
    index = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _unreadable(index, f"row {index + 1} is no CSV: {error}", "check the quotes")
            return
        if not any(cell.strip() for cell in cells):
            continue
        yield _csv_row(cells, names, index)
        index += 1


def _csv_row(cells: list[str], names: list[str], index: int) -> Mapping[str, Any] | Problem:
    if len(cells) > len(names):
        return _unreadable(
            index,
            f"row {index + 1} has {len(cells)} cells, the first row {len(names)}",
            "quote cells with commas",
        )
    if sum(map(len, cells)) > MAX_ROW_BYTES:
        return _unreadable(index, f"row {index + 1} is longer than {MAX_ROW_BYTES} bytes")
    if any("\ufffd" in cell for cell in cells):
        return _unreadable(index, f"row {index + 1} is no UTF-8", "save the file as UTF-8")
    row: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=False):
        if not cell.strip():
            continue
        text = cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell
        row[name] = text
    return from_text(row)
