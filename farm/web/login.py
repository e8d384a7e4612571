"""Logging in with an API key, by form or by a link, and logging out."""

from __future__ import annotations

from flask import Blueprint, Flask, redirect, render_template, request, session
from werkzeug.wrappers import Response

from farm.web.auth import client_address, log_in, public, safe_path
from farm.web.errors import answer
from farm.web.services import services

blueprint = Blueprint("login", __name__)


def _wait_answer() -> Response | None:
    wait = services().failures.wait_seconds(client_address())
    if not wait:
        return None
    return answer(429, "too_many_requests", "too many wrong keys from this address", retry_after=wait)


@blueprint.get("/login")
@public
def login_page() -> str | Response | tuple[str, int]:
    """The form; or, with `token`, the link that `farm up` prints: log in and go on to `next`."""
    target = safe_path(request.args.get("next", "/"))
    token = request.args.get("token", "")
    if not token:
        return render_template("login.html", next=target, error="")
    refusal = _wait_answer()
    if refusal is not None:
        return refusal
    if log_in(token) is None:
        return render_template(
            "login.html", next=target, error="This link's key is not valid (any more)."
        ), 401
    return redirect(target)


@blueprint.post("/login")
@public
def login() -> str | Response | tuple[str, int]:
    """Take the key that was typed into the form."""
    refusal = _wait_answer()
    if refusal is not None:
        return refusal
    target = safe_path(request.form.get("next", "/"))
    if log_in(request.form.get("key", "").strip()) is None:
        return render_template("login.html", next=target, error="No such key."), 401
    return redirect(target)


@blueprint.post("/logout")
@public
def logout() -> Response:
    session.clear()
    return redirect("/login")


def register(app: Flask) -> None:
    app.register_blueprint(blueprint)
