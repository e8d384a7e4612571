"""Models: the farm's base models, and the form that makes one LoRA of several adapters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, redirect, render_template, request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from farm.errors import BadRequest, Problem
from farm.jobs import adapters, models, views
from farm.jobs.extraction import parse_extract, submit_extraction
from farm.web import notify
from farm.web.api import views as shown
from farm.web.auth import current_user
from farm.web.pages import forms
from farm.web.pages.prompts import tags_of
from farm.web.services import services

blueprint = Blueprint("models", __name__)

#: what stands in the form at first
BLANK: Mapping[str, str] = {
    "name": "", "prompt": "", "model": "", "keep": "rank", "rank": "16", "energy": "0.99", "max_rank": "",
}  # fmt: skip
#: field of the form that a mistake stands beside, by the field of an extraction
BESIDE = {"networks": "networks", "rank": "keep", "energy": "keep", "max_rank": "keep"}
SHOWN_ADAPTERS = 200
_STRENGTH = "strength:"


@blueprint.get("/models")
def page() -> str:
    with services().sessions() as session:
        return render_template("pages/models.html", models=models.list_models(session))


@blueprint.get("/models/extract")
def form() -> str:
    """Empty, or filled from an extraction (`?job=<job id>`), from tags (`?prompt=`), for a model (`?model=`)."""
    filled = dict(BLANK)
    with services().sessions() as session:
        if request.args.get("job"):
            filled |= _of_job(views.job_view(session, current_user().id, request.args["job"]))
        filled |= {name: request.args[name] for name in BLANK if name in request.args}
        return _render(session, filled, {})


@blueprint.post("/models/extract")
def act() -> str | Response | tuple[str, int]:
    """Queue the extraction; mistakes stand beside their fields."""
    filled = {name: request.form.get(name, default) for name, default in BLANK.items()}
    strengths = {
        name: request.form.get(_STRENGTH + name, "").strip() for name in request.form.getlist("network")
    }
    user = current_user()
    with services().sessions() as session:
        try:
            job_id = submit_extraction(
                session,
                user.id,
                parse_extract(_asked(filled, strengths)),
                limits=services().limits,
                now=services().now(),
                key_id=user.limited_key,
            )
            session.commit()
        except BadRequest as error:
            session.rollback()
            return _render(session, filled, strengths, _by_field(forms.problems_of(error))), 422
    notify.job_changed(services(), user.id, job_id, "queued")
    return redirect(f"/jobs/{job_id}", 303)


def _asked(filled: Mapping[str, str], strengths: Mapping[str, str]) -> dict[str, Any]:
    """The extraction that a form asks for; what is no number stays text, so that the answer says so."""
    kept = ("rank",) if filled["keep"] == "rank" else ("energy", "max_rank")
    return {
        "name": filled["name"],
        "prompt": filled["prompt"],
        **({"model": filled["model"]} if filled["model"] else {}),
        **{name: _number(filled[name]) for name in kept if filled[name].strip()},
        "networks": [
            {"name": name, "strength": _number(text) if text else 1.0} for name, text in strengths.items()
        ],
    }


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _of_job(job: Mapping[str, Any]) -> dict[str, str]:
    """The form of an extraction's job; of any other job its tags alone."""
    asked = job["extract"] or {}
    told = {name: f"{value}" for name, value in asked.items() if value is not None}
    keep = {"keep": "energy"} if "energy" in told else {}
    return {"prompt": tags_of(job["prompt"]), "model": job["model"], **told, **keep}


def _by_field(problems: Iterable[Problem]) -> defaultdict[str, list[Problem]]:
    found: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        name = problem.pointer.strip("/").split("/")[0]
        place = BESIDE.get(name, name if name in BLANK else "prompt")
        found["networks" if problem.code == "nothing_to_extract" else place].append(problem)
    return found


def _render(
    session: Session,
    filled: dict[str, str],
    strengths: Mapping[str, str],
    problems: defaultdict[str, list[Problem]] | None = None,
) -> str:
    known = adapters.list_adapters(session, sort="name", limit=SHOWN_ADAPTERS)
    all_models = models.list_models(session)
    if not filled["model"] and all_models:
        filled["model"] = all_models[0]["name"]
    return render_template(
        "pages/extract.html",
        form=filled,
        strengths=strengths,
        problems=problems or _by_field(()),
        adapters=[shown.adapter(item) for item in known.items],
        more=known.next_cursor is not None,
        models=all_models,
    )
