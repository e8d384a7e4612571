"""The failed rows of a batch as a file, sent while they are read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from flask import Response

from farm.jobs import batch_views
from farm.jobs.spec import FIELDS
from farm.web.rows import FORMULA
from farm.web.services import Services

Format = Literal["csv", "ndjson"]
TYPES: Mapping[Format, str] = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
#: columns that tell of the failure; without them, the file is a batch again
ABOUT = ("row", "job", "error", "reason")


def failed_file(services: Services, owner_id: str, batch_id: str, form: Format) -> Response:
    """All failed rows of a batch with what was wrong.

    Raises:
        NotFound: no such batch of this owner.
    """
    with services.sessions() as session:
        batch_views.batch_view(session, owner_id, batch_id)
    write = as_csv if form == "csv" else as_ndjson

    def pieces() -> Iterator[str]:
        with services.sessions() as session:
            yield from write(batch_views.failed_rows(session, owner_id, batch_id))

    response = Response(pieces(), mimetype=TYPES[form])
    response.headers["Content-Disposition"] = f'attachment; filename="{batch_id}-failed.{form}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def as_ndjson(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A row a line, as `failed_rows` has it."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def as_csv(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A table with the columns of `ABOUT`, then those of a job as a batch reads them; rows are counted from 1."""
    yield _line((*ABOUT, *FIELDS))
    for row in rows:
        error, job = row["error"], row["job"]
        about = (row["row"] + 1, row["id"], error["code"], error["message"])
        yield _line((*about, *(_cell(job[name]) for name in FIELDS)))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, list) else value


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(
        # so that no spreadsheet takes words for a formula; a batch reads such a cell without its apostrophe
        f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
        for cell in cells
    )
    return text.getvalue()
