"""The application factory: wires services, guards, API and pages together and decides nothing itself."""

from __future__ import annotations

from flask import Flask
from flask_openapi import Info, OpenAPI
from werkzeug.routing import BaseConverter

from farm.settings import Settings
from farm.web import auth, errors, health, login, security
from farm.web.api import register as api
from farm.web.build import build_services

#: requests that carry no upload and no batch
MAX_BODY_BYTES = 1024 * 1024


class IdConverter(BaseConverter):
    """An id in a path; it ends at the colon of a custom method such as `:cancel`."""

    regex = r"[A-Za-z0-9_.\-]{1,80}"


def create_app(settings: Settings) -> Flask:
    """The dashboard and API of one web process; its database must be migrated."""
    services = build_services(settings)
    app = OpenAPI(
        "farm.web",
        info=Info(
            title="Farm",
            version="1",
            description="Render farm for diffusion models with LoRA-aware scheduling.",
        ),
        doc_ui=False,
        validation_error_status=422,
        validation_error_callback=errors.validation_answer,
        security_schemes={"key": {"type": "http", "scheme": "bearer"}},
    )
    app.openapi_version = "3.1.0"
    app.extensions["farm"] = services
    app.url_map.converters["id"] = IdConverter
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES, MAX_FORM_MEMORY_SIZE=MAX_BODY_BYTES, MAX_FORM_PARTS=200
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]

    security.register(app)
    auth.register(
        app,
        secret_key=security.secret_key(services.data_dir, settings.secret_key.get_secret_value()),
        secure_cookie=settings.url.startswith("https://"),
    )
    errors.register(app)
    health.register(app)
    login.register(app)
    api.register(app)

    from farm.web.pages.routes import register as register_pages

    register_pages(app, services)
    return app
