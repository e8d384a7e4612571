"""What every button that changes something answers: an event for open pages, or the way back for browsers without scripts."""

from __future__ import annotations

import json

from flask import redirect, request
from werkzeug.wrappers import Response

from farm.web.auth import safe_path


def done(sentence: str, *, back: str) -> Response:
    """Tell that it is done: a toast on an open page, which then refreshes itself, or a redirect to `back`."""
    if "HX-Request" not in request.headers:
        return redirect(safe_path(request.form.get("next", ""), back), 303)
    response = Response(status=204)
    response.headers["HX-Trigger"] = json.dumps({"farm:toast": {"text": sentence}, "farm:change": {}})
    return response


def gone(sentence: str, *, to: str) -> Response:
    """Tell that the thing shown is gone, and go elsewhere."""
    if "HX-Request" not in request.headers:
        return redirect(to, 303)
    response = Response(status=204)
    response.headers["HX-Redirect"] = to
    return response
