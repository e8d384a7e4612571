"""Static files under an address that changes with their content, so that browsers may keep them for good."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from flask import Blueprint, Response, send_from_directory
from markupsafe import Markup

from farm.web.auth import public

STATIC = Path(__file__).resolve().parent.parent / "static"
ICONS = STATIC / "vendor" / "lucide-static@1.62.0"
YEAR_SECONDS = 365 * 24 * 3600

blueprint = Blueprint("assets", __name__)


@lru_cache(maxsize=1)
def version() -> str:
    """A hash over all static files: modules import each other by relative paths, so one version names them all."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(STATIC).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def asset(path: str) -> str:
    """The address of the static file `path`."""
    return f"/assets/{version()}/{path}"


@lru_cache(maxsize=256)
def icon(name: str) -> Markup:
    """The icon `name` as inline SVG in the colour of its text; hidden from screen readers, which read the words beside."""
    source = (ICONS / f"{name}.svg").read_text()
    inner = re.sub(r"<!--.*?-->|<svg[^>]*>|</svg>", "", source, flags=re.DOTALL)
    inner = " ".join(inner.split())
    return Markup(  # noqa: S704 - our own files, no input of anybody
        f'<svg class="icon" viewBox="0 0 24 24" width="16" height="16" aria-hidden="true">{inner}</svg>'
    )


@blueprint.get("/assets/<revision>/<path:name>")
@public
def send(revision: str, name: str) -> Response:
    """A static file; kept by browsers for a year when asked for under the present version."""
    current = revision == version()
    response = send_from_directory(STATIC, name, max_age=YEAR_SECONDS if current else 0)
    if current:
        response.headers["Cache-Control"] = f"public, max-age={YEAR_SECONDS}, immutable"
    return response


@blueprint.get("/favicon.ico")
@public
def favicon() -> Response:
    """Browsers ask here of their own accord."""
    return send_from_directory(STATIC, "icon.svg", mimetype="image/svg+xml", max_age=3600)
