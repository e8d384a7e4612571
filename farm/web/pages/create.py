"""The Create page: say what to draw, see what each step gets, queue it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from flask import Blueprint, redirect, render_template, request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from farm.errors import BadRequest, Problem
from farm.jobs import adapters, models, views
from farm.jobs.estimate import estimate
from farm.jobs.prepare import explain, prepare
from farm.jobs.submit import submit
from farm.models.samplers import LABELS
from farm.queue import events
from farm.web import notify, presets
from farm.web.api import views as shown
from farm.web.auth import current_user
from farm.web.pages import forms, prompts, strips
from farm.web.services import services

blueprint = Blueprint("create", __name__)

LAST_PICTURES = 6
OPEN_JOBS = 3


@blueprint.get("/")
@blueprint.get("/create")
def page() -> str:
    """The form: empty, or filled from a picture (`?from=<image id>`), a job (`?job=<job id>`) or fields of a job."""
    form = dict(forms.BLANK)
    owner = current_user().id
    with services().sessions() as session:
        if request.args.get("from"):
            form |= _of_image(views.image_view(session, owner, request.args["from"]))
        elif request.args.get("job"):
            form |= forms.form_of(views.job_view(session, owner, request.args["job"]))
        form |= {name: request.args[name] for name in forms.FIELDS if name in request.args}
        return _render(session, form, recalled="from" in request.args or "job" in request.args)


@blueprint.post("/create")
def act() -> str | Response | tuple[str, int]:
    """Without scripts: queue the form, check it, or put an adapter into its prompt."""
    form = {name: request.form.get(name, "") for name in forms.FIELDS}
    user = current_user()
    with services().sessions() as session:
        if "add" in request.form:
            return _render(session, form | {"prompt": _toggled(session, form["prompt"], request.form["add"])})
        try:
            if request.form.get("do") == "check":
                found = prepare(session, user.id, forms.spec_of(form), limits=services().limits)
                explained = explain(session, found)
                strip, second = strips.of_explain(explained), strips.of_second_pass(explained)
                sentence = estimate(session, found).sentence
                return _render(
                    session, form, strip=strip, second=second, warnings=found.warnings, sentence=sentence
                )
            job_id = submit(
                session,
                user.id,
                forms.spec_of(form),
                limits=services().limits,
                now=services().now(),
                key_id=user.limited_key,
            )
            session.commit()
        except BadRequest as error:
            session.rollback()
            return _render(session, form, problems=forms.by_field(forms.problems_of(error))), 422
    notify.job_changed(services(), user.id, job_id, "queued")
    return redirect(f"/jobs/{job_id}", 303)


@blueprint.get("/create/last")
def last() -> str:
    """The card of running jobs and last pictures, for pages that are open."""
    with services().sessions() as session:
        return render_template("parts/last.html", **_last(session))


def _of_image(view: dict[str, Any]) -> dict[str, str]:
    info = view["info"]
    model = info.get("model")
    return forms.form_of(
        {
            **info,
            "model": model.get("name") if isinstance(model, dict) else model,
            "count": 1,
            "priority": "normal",
        }
    )


def _toggled(session: Session, prompt: str, name: str) -> str:
    row = adapters.find(session, [name]).get(name.casefold())
    return prompt if row is None else prompts.with_adapter(prompt, row.name, list(row.trigger_words))


def _last(session: Session) -> dict[str, Any]:
    owner = current_user().id
    open_jobs = views.list_jobs(
        session, owner, states=("running", "assigned", "queued"), limit=OPEN_JOBS
    ).items
    return {
        "open_jobs": [with_preview(job) for job in reversed(open_jobs)],
        "last_images": views.list_images(session, owner, limit=LAST_PICTURES).items,
    }


def with_preview(job: dict[str, Any]) -> dict[str, Any]:
    """`job` with whether there is a live preview to show."""
    running = job["state"] == "running"
    return {**job, "preview": running and events.get_preview(services().redis, job["id"]) is not None}


def _render(
    session: Session,
    form: dict[str, str],
    *,
    problems: defaultdict[str, list[Problem]] | None = None,
    strip: strips.Strip | None = None,
    second: strips.Strip | None = None,
    warnings: tuple[str, ...] = (),
    sentence: str = "",
    recalled: bool = False,
) -> str:
    known = [shown.adapter(item) for item in adapters.list_adapters(session, sort="name", limit=200).items]
    all_models = models.list_models(session)
    saved = presets.list_presets(session, current_user().id)
    if not form["model"] and all_models:
        form["model"] = all_models[0]["name"]
    data = {
        "adapters": [
            {
                key: adapter[key]
                for key in (
                    "name",
                    "type",
                    "base_model",
                    "trigger_words",
                    "default_strength",
                    "preview",
                    "hot_on",
                )
            }
            for adapter in known
        ],
        "models": [
            {key: model[key] for key in ("name", "family", "defaults", "limits", "second_pass")}
            for model in all_models
        ],
        "presets": saved,
        "recalled": recalled,
        "max_steps": services().limits.max_steps,
    }
    return render_template(
        "pages/create.html",
        form=form,
        problems=problems or forms.by_field(()),
        adapters=known,
        models=all_models,
        presets=saved,
        samplers=LABELS.items(),
        max_frames=services().limits.max_frames,
        videos=any("frames" in model["defaults"] for model in all_models),
        used=prompts.adapters(form["prompt"]),
        strip=strip,
        second=second,
        warnings=warnings,
        estimate=sentence,
        estimate_head="",
        data=data,
        **_last(session),
    )
