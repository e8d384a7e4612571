"""Batches: many jobs at once, from rows or a matrix; how far they are; cancel the rest, retry what failed."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from flask import Blueprint, redirect, render_template, request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from farm.errors import BadRequest, Problem
from farm.jobs import control, models, views
from farm.jobs.batch_views import last_start
from farm.jobs.image_views import pictures_of_batch
from farm.jobs.matrix import expand_matrix
from farm.jobs.submit import BatchResult, submit_batch
from farm.web import notify
from farm.web import rows as row_files
from farm.web.auth import current_user
from farm.web.failed import failed_file
from farm.web.pages import acts
from farm.web.pages.words import plural
from farm.web.services import services

blueprint = Blueprint("batches", __name__)

#: of the text field, which is held in memory; a file is not
MAX_TEXT_BYTES = 64 * 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
#: a larger file is not shown again in the text field; the same bound as in batch.js
SHOWN_BYTES = 2_000_000
SHOWN_ROWS = 20
SHOWN_PROBLEMS = 50
PICTURES = 60
EXAMPLE = """prompt,seed,steps
a fox in the snow <lora:ink:0.8>,1,20
an owl at night <lora:neon:1>,2,20"""
EXAMPLE_MATRIX = """{
  "base": {"prompt": "a house and a tree <lora:ink:{strength}>", "steps": 20},
  "axes": {"strength": [0.2, 0.5, 0.8, 1.1], "seed": [1, 2, 3]}
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Rows as they were given, and those among them that could not be read."""

    rows: Iterable[Mapping[str, Any]]
    read: row_files.Rows | None

    def problems(self, found: tuple[Problem, ...]) -> tuple[Problem, ...]:
        return self.read.problems(found) if self.read is not None else found


@blueprint.url_value_preprocessor
def allow_rows(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Let a form bring many rows; before anything else reads the form."""
    if endpoint == "batches.submit":
        request.max_content_length, request.max_form_memory_size = MAX_BODY_BYTES, MAX_TEXT_BYTES


@blueprint.get("/batches")
def page() -> str:
    return render_template("pages/batches.html", **_batches())


@blueprint.get("/batches/list")
def listing() -> str:
    """The list alone, for pages that are open."""
    return render_template("parts/batch_list.html", **_batches())


def _batches() -> dict[str, Any]:
    with services().sessions() as session:
        found = views.list_batches(
            session, current_user().id, cursor=request.args.get("cursor", ""), limit=30
        )
    return {"batches": found.items, "next_cursor": found.next_cursor}


@blueprint.get("/batches/new")
def new() -> str:
    return _form({"kind": request.args.get("kind", "rows"), "name": "", "rows": "", "matrix": ""})


def _form(form: Mapping[str, str], **context: Any) -> str:
    with services().sessions() as session:
        names = [model["name"] for model in models.list_models(session)]
    return render_template(
        "pages/batch_new.html",
        form=form,
        models=names,
        example=EXAMPLE,
        example_matrix=EXAMPLE_MATRIX,
        **context,
    )


@blueprint.post("/batches/new")
def submit() -> str | Response | tuple[str, int]:
    """Check the rows, or queue all of them; a mistake in any row refuses all and says where it is."""
    form = {name: request.form.get(name, "") for name in ("kind", "name", "rows", "matrix")}
    large = _take_file(form)
    only_check = request.form.get("do") == "check"
    user = current_user()
    try:
        with services().sessions() as session:
            result, problems, first = _submit(session, user.id, form, large, only_check=only_check)
            if not problems and not only_check:
                session.commit()
    except BadRequest as error:
        return _form(form, problems=_problems(error)), 422
    if problems:
        return _form(
            form, problems=problems[:SHOWN_PROBLEMS], more=max(0, len(problems) - SHOWN_PROBLEMS)
        ), 422
    if only_check or result.batch_id is None:
        return _form(form, result=result, first=first)
    notify.batch_changed(services(), user.id, result.batch_id)
    return redirect(f"/batches/{result.batch_id}", 303)


def _take_file(form: dict[str, str]) -> IO[bytes] | None:
    """A chosen file becomes the text of the form; one too large to be shown is left where it is, on disk, and returned."""
    file = request.files.get("file")
    if form["kind"] != "rows" or file is None or not file.filename:
        return None
    begin = file.stream.read(SHOWN_BYTES + 1)
    if len(begin) > SHOWN_BYTES:
        file.stream.seek(0)
        form["rows"] = ""
        return file.stream
    form["rows"] = begin.decode("utf-8-sig", errors="replace")
    return None


def _problems(error: BadRequest) -> tuple[Problem, ...]:
    return error.problems or (Problem(code=error.code, message=error.message, hint=error.hint),)


def _submit(
    session: Session, owner_id: str, form: Mapping[str, str], large: IO[bytes] | None, *, only_check: bool
) -> tuple[BatchResult, tuple[Problem, ...], list[Mapping[str, Any]]]:
    source = source_of(form, services().limits.max_batch_rows, large)
    first: list[Mapping[str, Any]] = []

    def watched() -> Iterable[Mapping[str, Any]]:
        for row in source.rows:
            if len(first) < SHOWN_ROWS:
                first.append(row)
            yield row

    result = submit_batch(
        session,
        owner_id,
        watched(),
        name=form["name"].strip() or "batch",
        limits=services().limits,
        now=services().now(),
        dry_run=only_check,
        key_id=current_user().limited_key,
    )
    return result, source.problems(result.errors), first


def source_of(form: Mapping[str, str], most: int, large: IO[bytes] | None = None) -> Source:
    """The rows of a form: JSON lines, CSV, or the combinations of a matrix; of `large`, where there is such a file.

    Raises:
        BadRequest: the text is neither.
    """
    if form["kind"] == "matrix":
        try:
            matrix = json.loads(form["matrix"] or "{}")
        except ValueError as error:
            raise BadRequest(f"the matrix is no JSON: {error}", "start from the example") from None
        if not isinstance(matrix, dict) or not {"base", "axes"} >= set(matrix) or not matrix:
            raise BadRequest("a matrix has a base and axes", 'write {"base": {…}, "axes": {…}}')
        return Source(
            rows=expand_matrix(matrix.get("base") or {}, matrix.get("axes") or {}, most=most), read=None
        )
    stream = io.BytesIO(form["rows"].strip().encode()) if large is None else large
    begin = stream.read(SHOWN_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    stream.seek(0)
    if not begin:
        raise BadRequest("there are no rows", "paste JSON lines or CSV, or choose a file")
    read = row_files.ndjson(stream) if begin.startswith(b"{") else row_files.csv_rows(stream)
    return Source(rows=read, read=read)


@blueprint.get("/batches/<id:batch_id>")
def batch(batch_id: str) -> str:
    return render_template("pages/batch.html", **_batch(batch_id))


@blueprint.get("/batches/<id:batch_id>/body")
def body(batch_id: str) -> str:
    """What changes on the page of a batch, for pages that are open."""
    return render_template("parts/batch_body.html", **_batch(batch_id))


def _batch(batch_id: str) -> dict[str, Any]:
    owner = current_user().id
    with services().sessions() as session:
        view = views.batch_view(session, owner, batch_id)
        images = pictures_of_batch(session, owner, batch_id, limit=PICTURES)
        failed = views.list_jobs(session, owner, batch=batch_id, states=("failed",), limit=20)
        running = views.list_jobs(session, owner, batch=batch_id, states=("running",), limit=12)
        last = last_start(session, batch_id, owner)
    states = view["states"]
    ended = sum(states.get(state, 0) for state in ("succeeded", "failed", "cancelled"))
    elapsed = (services().now() - view["created_at"]).total_seconds()
    rate = states.get("succeeded", 0) / elapsed if elapsed > 1 and ended < view["total"] else None
    return {
        "batch": view,
        "images": images,
        "more_images": len(images) == PICTURES,
        "failed": failed.items,
        "running": running.items,
        "ended": ended,
        "left": view["total"] - ended,
        "per_minute": rate * 60 if rate else None,
        "last": last,
    }


@blueprint.get("/batches/<id:batch_id>/failed.csv")
def failed_rows(batch_id: str) -> Response:
    """What failed, as a file for a spreadsheet."""
    return failed_file(services(), current_user().id, batch_id, "csv")


@blueprint.post("/batches/<id:batch_id>/cancel")
def cancel(batch_id: str) -> Response:
    owner = current_user().id
    with services().sessions() as session:
        count = control.cancel_batch(session, owner, batch_id, services().now())
        session.commit()
    notify.batch_changed(services(), owner, batch_id)
    return acts.done(f"{plural(count, 'job')} cancelled.", back=f"/batches/{batch_id}")


@blueprint.post("/batches/<id:batch_id>/retry-failed")
def retry_failed(batch_id: str) -> Response:
    owner = current_user().id
    with services().sessions() as session:
        count = control.retry_failed(session, owner, batch_id, services().now())
        session.commit()
    notify.batch_changed(services(), owner, batch_id)
    return acts.done(f"{plural(count, 'failed job')} wait again.", back=f"/batches/{batch_id}")
