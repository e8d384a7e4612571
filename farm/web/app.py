"""The application factory: wires services, guards, API and pages together and decides nothing itself."""

from __future__ import annotations

from flask import Flask
from flask_openapi.models.info import Info
from flask_openapi.openapi import OpenAPI
from werkzeug.routing import BaseConverter

from farm.settings import Settings
from farm.web import auth, errors, health, login, security
from farm.web.api import root as api
from farm.web.api.schema import ProblemDetails
from farm.web.build import build_services
from farm.web.pages.routes import register as register_pages
from farm.web.services import Services

#: requests that carry no upload and no batch
MAX_BODY_BYTES = 1024 * 1024


class IdConverter(BaseConverter):
    """An id in a path; it ends at the colon of a custom method such as `:cancel`."""

    regex = r"[A-Za-z0-9_.\-]{1,80}"


class NameConverter(BaseConverter):
    """An id or a name that a person gave; it may hold colons itself, as in `host cuda:1`."""

    regex = r"[^/\x00-\x1f\x7f]{1,200}"


def create_app(settings: Settings) -> Flask:
    """The dashboard and API of one web process; its database must be migrated."""
    return assemble(
        build_services(settings),
        secret_key=security.secret_key(settings.data_dir, settings.secret_key.get_secret_value()),
        secure_cookie=settings.url.startswith("https://"),
    )


def assemble(services: Services, *, secret_key: str, secure_cookie: bool = False) -> Flask:
    """The application around `services`."""
    app = OpenAPI(
        "farm.web",
        info=Info(
            title="Farm",
            version="1",
            description="Render farm for diffusion models with LoRA-aware scheduling.",
        ),
        doc_ui=False,
        validation_error_status=422,
        validation_error_model=ProblemDetails,
        validation_error_callback=errors.validation_answer,
        security_schemes={"key": {"type": "http", "scheme": "bearer"}},
    )
    app.openapi_version = "3.1.0"
    app.extensions["farm"] = services
    app.url_map.converters.update({"id": IdConverter, "name": NameConverter})
    app.config.update(
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES, MAX_FORM_MEMORY_SIZE=MAX_BODY_BYTES, MAX_FORM_PARTS=200
    )

    security.register(app)
    auth.register(app, secret_key=secret_key, secure_cookie=secure_cookie)
    errors.register(app)
    health.register(app)
    login.register(app)
    api.register(app)
    register_pages(app, services)
    return app
