"""Batches over HTTP: many jobs in one request, all of them or none."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from typing import IO, Any

from flask import Response, current_app, jsonify, request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from farm.errors import BadRequest, FarmError, Problem
from farm.jobs import control, views
from farm.jobs.matrix import expand_matrix
from farm.jobs.spec import storable
from farm.jobs.submit import BatchResult, submit_batch
from farm.web import notify, rows
from farm.web.api import views as shown
from farm.web.api.common import PREFIX, PageQuery, Strict, blueprint, page, with_etag
from farm.web.api.jobs import states_of
from farm.web.api.schema import BatchAccepted, BatchChecked, BatchPage, BatchView, Cancelled, JobPage, Retried
from farm.web.auth import current_user
from farm.web.failed import Format, failed_file
from farm.web.idempotent import once
from farm.web.services import services

api = blueprint("batches", "Many jobs in one request.")

#: rows are read one at a time; a JSON document is not
MAX_ROWS_BYTES = 1024 * 1024 * 1024
MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
LINES = frozenset({"application/x-ndjson", "application/jsonl", "application/x-jsonlines"})
CSV = "text/csv"
DOCUMENT = "application/json"
IN_MEMORY_BYTES = 1024 * 1024
CHUNK_BYTES = 256 * 1024

BATCH_BODY = {
    "required": True,
    "description": "A matrix of axes or a list of rows as JSON; a job a line; a job a row, fields in the first row.",
    "content": {
        "application/json": {
            "schema": {"type": "object"},
            "example": {
                "base": {"prompt": "a fox <lora:ink:{w}>"},
                "axes": {"w": [0.2, 0.8], "seed": [1, 2]},
            },
        },
        "application/x-ndjson": {
            "schema": {"type": "string"},
            "example": '{"prompt": "a fox"}\n{"prompt": "an owl"}\n',
        },
        "text/csv": {"schema": {"type": "string"}, "example": "prompt,seed\na fox,1\nan owl,2\n"},
    },
}


FAILED = {
    "description": "All failed rows, in the order of the batch.",
    "content": {
        "application/x-ndjson": {"schema": {"type": "string"}},
        "text/csv": {"schema": {"type": "string"}},
    },
}


class BatchPath(BaseModel):
    batch_id: str


class BatchQuery(Strict):
    name: str = Field("", max_length=200, description="Name shown on the Batches page.")
    dry_run: bool = Field(False, description="Check every row; write nothing.")


class BatchJobsQuery(PageQuery):
    state: str = Field("", description="Comma-separated states.")


class FailedQuery(Strict):
    format: Format = Field("ndjson", description="`ndjson`, or `csv` for a spreadsheet.")


class _Document(Strict):
    """A batch as one JSON document: rows, or a base and axes."""

    name: str = Field("", max_length=200)
    rows: list[dict[str, Any]] | None = None
    base: dict[str, Any] | None = None
    axes: dict[str, list[Any]] | None = None


def _spool() -> tuple[IO[bytes], bytes]:
    """The body in a temporary file, and its hash: no lock of the database is held while a client sends slowly."""
    if request.mimetype not in LINES | {CSV, DOCUMENT}:
        raise FarmError(
            f"a batch cannot be sent as {request.mimetype or 'an undeclared type'}",
            "use application/x-ndjson, text/csv or application/json",
            code="unsupported_media_type",
        )
    request.max_content_length = MAX_DOCUMENT_BYTES if request.mimetype == DOCUMENT else MAX_ROWS_BYTES
    digest = hashlib.sha256()
    file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - closed by the caller
    try:
        while piece := request.stream.read(CHUNK_BYTES):
            digest.update(piece)
            file.write(piece)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file, digest.digest()


def _rows_of(
    media_type: str, file: IO[bytes], most: int
) -> tuple[rows.Rows | None, Iterable[Mapping[str, Any]], str]:
    """(rows that may be unreadable, all rows, name in the document)."""
    if media_type in LINES:
        read = rows.ndjson(file)
        return read, read, ""
    if media_type == CSV:
        read = rows.csv_rows(file)
        return read, read, ""
    try:
        parsed = current_app.json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}", "send a JSON object", code="malformed") from None
    document = _Document.model_validate(parsed)
    if not storable(document.name):
        raise BadRequest("the name holds a character that is no text", "remove it", code="bad_character")
    if (document.rows is None) == (document.axes is None and document.base is None):
        raise BadRequest(
            "the batch has rows and axes, or neither",
            'send {"rows": [job, …]} or {"base": job, "axes": {field: [value, …]}}',
            code="malformed",
        )
    if document.rows is not None:
        return None, document.rows, document.name
    return None, expand_matrix(document.base or {}, document.axes or {}, most=most), document.name


@api.post("/batches", request_body=BATCH_BODY, responses={"202": BatchAccepted, "200": BatchChecked})
def submit_rows(query: BatchQuery) -> Response:
    """Queue many jobs: all of them, or none and every wrong row with its place. Send an Idempotency-Key."""
    user = current_user()
    file, digest = _spool()
    with file:

        def check(session: Session, *, dry_run: bool) -> BatchResult:
            read, source, name = _rows_of(request.mimetype, file, services().limits.max_batch_rows)
            result = submit_batch(
                session,
                user.id,
                source,
                name=query.name or name or "batch",
                limits=services().limits,
                now=services().now(),
                dry_run=dry_run,
                key_id=user.limited_key,
            )
            _refuse_wrong_rows(read.problems(result.errors) if read is not None else result.errors)
            return result

        def act(session: Session) -> tuple[int, dict[str, Any], dict[str, str]]:
            result = check(session, dry_run=False)
            assert result.batch_id is not None
            session.flush()
            view = views.batch_view(session, user.id, result.batch_id)
            return 202, {**view, **_facts(result)}, {"Location": f"{PREFIX}/batches/{result.batch_id}"}

        if query.dry_run:
            with services().sessions() as session:
                result = check(session, dry_run=True)
                return jsonify({"dry_run": True, "total": result.accepted, **_facts(result)})
        response, is_new = once(user.id, digest, act)
    if is_new:
        notify.batch_changed(services(), user.id, response.get_json()["id"])
    return response


def _facts(result: BatchResult) -> dict[str, Any]:
    return {
        "images": result.images,
        "steps": result.steps,
        "groups": result.groups,
        "warnings": list(result.warnings),
    }


def _refuse_wrong_rows(problems: tuple[Problem, ...]) -> None:
    if problems:
        raise BadRequest.of(problems)


@api.get("/batches", responses={"200": BatchPage})
def list_batches(query: PageQuery) -> Response:
    """Your batches with their counts, newest first."""
    with services().sessions() as session:
        found = views.list_batches(session, current_user().id, cursor=query.cursor, limit=query.limit)
    return page(found.items, found.next_cursor)


@api.get("/batches/<id:batch_id>", responses={"200": BatchView})
def show_batch(path: BatchPath) -> Response:
    """One batch and its jobs by state."""
    with services().sessions() as session:
        return with_etag(views.batch_view(session, current_user().id, path.batch_id))


@api.get("/batches/<id:batch_id>/jobs", responses={"200": JobPage})
def list_batch_jobs(path: BatchPath, query: BatchJobsQuery) -> Response:
    """Jobs of a batch, newest first."""
    user = current_user()
    with services().sessions() as session:
        views.batch_view(session, user.id, path.batch_id)
        found = views.list_jobs(
            session,
            user.id,
            states=states_of(query.state),
            batch=path.batch_id,
            cursor=query.cursor,
            limit=query.limit,
        )
    return page([shown.job(item) for item in found.items], found.next_cursor)


@api.get("/batches/<id:batch_id>/failed", responses={"200": FAILED})
def list_failed_rows(path: BatchPath, query: FailedQuery) -> Response:
    """What failed and why, as a file: to be mended and sent again."""
    return failed_file(services(), current_user().id, path.batch_id, query.format)


@api.post("/batches/<id:batch_id>:cancel", responses={"200": Cancelled})
def cancel_batch(path: BatchPath) -> Response:
    """Cancel what has not ended."""
    user = current_user()
    with services().sessions() as session:
        count = control.cancel_batch(session, user.id, path.batch_id, services().now())
        session.commit()
    notify.batch_changed(services(), user.id, path.batch_id)
    return jsonify({"id": path.batch_id, "cancelled": count})


@api.post("/batches/<id:batch_id>:retry-failed", responses={"200": Retried})
def retry_failed(path: BatchPath) -> Response:
    """Queue the failed jobs of a batch again."""
    user = current_user()
    with services().sessions() as session:
        count = control.retry_failed(session, user.id, path.batch_id, services().now())
        session.commit()
    notify.batch_changed(services(), user.id, path.batch_id)
    return jsonify({"id": path.batch_id, "retried": count})
