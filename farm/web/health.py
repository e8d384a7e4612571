"""`/healthz`: this process lives. `/readyz`: what it needs is there."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from flask import Blueprint, Flask, Response, jsonify
from sqlalchemy import text

from farm.web.auth import public
from farm.web.services import services

blueprint = Blueprint("health", __name__)
log = structlog.get_logger(__name__)


@blueprint.get("/healthz")
@public
def healthz() -> Response:
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
@public
def readyz() -> tuple[Response, int]:
    """200 when jobs can be accepted: database and store answer. Redis is told, but nothing depends on it."""
    found = {"database": _check(_database), "store": _check(_store), "redis": _check(_redis)}
    ready = found["database"] and found["store"]
    words = {name: "ok" if fine else "away" for name, fine in found.items()}
    return jsonify({"status": "ok" if ready else "away", "checks": words}), 200 if ready else 503


def _check(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except Exception as error:  # whatever it raises, it is not ready
        log.info("not_ready", probe=probe.__name__, error=str(error))
        return False
    return True


def _database() -> None:
    with services().engine.connect() as connection:
        connection.execute(text("select 1"))


def _store() -> None:
    services().store.exists("probe")


def _redis() -> None:
    services().redis.ping()


def register(app: Flask) -> None:
    app.register_blueprint(blueprint)
