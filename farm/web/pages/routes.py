"""Registers every page of the dashboard with the application, and what their templates share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Flask, g, render_template

from farm.jobs import pins, views
from farm.web.auth import current_user
from farm.web.pages import (
    assets,
    batches,
    create,
    gallery,
    jobs,
    models,
    networks,
    queue,
    search,
    words,
    workers,
)
from farm.web.pages.prompts import pieces
from farm.web.services import Services

NAVIGATION = (
    ("/create", "Create", "square-pen"),
    ("/queue", "Queue", "list-ordered"),
    ("/gallery", "Gallery", "images"),
    ("/networks", "Networks", "blocks"),
    ("/models", "Models", "hard-drive"),
    ("/batches", "Batches", "layers"),
    ("/workers", "Workers", "server"),
)
PAGES = (create, queue, jobs, gallery, networks, models, batches, workers, search)


def register(app: Flask, services: Services) -> None:
    """Add the pages, their templates' words and the static files' addresses to `app`."""

    def ago(value: datetime | str | None) -> str:
        return words.ago(value, services.now())

    def starts(value: datetime | str | None) -> str:
        return words.starts(value, services.now())

    def iso(value: datetime | str) -> str:
        at = words.moment(value)
        return "" if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")

    def queue_summary() -> dict[str, Any]:
        with services.sessions() as session:
            return views.queue_summary(session, current_user().id)

    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(
        asset=assets.asset,
        icon=assets.icon,
        navigation=NAVIGATION,
        nonce=lambda: g.get("csp_nonce", ""),
        plural=words.plural,
        queue_summary=queue_summary,
    )
    app.jinja_env.filters.update(
        ago=ago,
        iso=iso,
        pieces=pieces,
        hue=words.hue,
        duration=words.duration,
        size=words.size,
        number=words.number,
        job_title=words.title,
        job_words=words.job_words,
        progress=words.progress,
        pins_words=lambda job: pins.in_words(job["min_memory"] or 0, job["worker_tags"]),
        state_word=lambda state: words.STATES.get(state, state),
        base_word=lambda base: words.BASE_MODELS.get(base, base),
        type_word=lambda type_: words.TYPES.get(type_, type_),
        sampler=words.sampler,
        starts=starts,
        transition=words.transition,
    )

    app.register_blueprint(assets.blueprint)
    for page in PAGES:
        app.register_blueprint(page.blueprint)

    @app.get("/live")
    def live() -> str:
        """The words in the top bar, for pages that are open."""
        return render_template("parts/live.html")
