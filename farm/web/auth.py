"""Who is asking: an API key in the Authorization header, or a signed session cookie with a CSRF token.

A session holds the prefix of the key it was opened with, so that revoking the key ends its sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, redirect, request, session, url_for
from flask_wtf.csrf import ValidationError, generate_csrf, validate_csrf
from sqlalchemy import select
from werkzeug.wrappers import Response as BaseResponse

from farm.db.models import ApiKey, User
from farm.errors import FarmError
from farm.jobs import users
from farm.web.errors import answer, wants_html
from farm.web.services import services

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PREFIX = "key_prefix"
#: texts of a form; its files may be as large as an upload
FORM_BYTES = 64 * 1024 * 1024

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentUser:
    """The person behind a request."""

    id: str
    name: str
    #: admin, operator or artist
    role: str
    #: True for a session cookie, False for an API key
    by_cookie: bool
    #: the key that was shown, now or when the session was opened, if it has a limit of running jobs
    limited_key: str | None = None

    @property
    def operates(self) -> bool:
        """True for those who may act on workers."""
        return self.role in {"admin", "operator"}


def public(view: View) -> View:
    """Mark a view that needs no login."""
    view.farm_public = True  # type: ignore[attr-defined]
    return view


def current_user() -> CurrentUser:
    """The user of this request.

    Raises:
        FarmError: nobody is logged in (only possible in a public view).
    """
    user = maybe_user()
    if user is None:
        raise FarmError("who are you?", "log in, or send Authorization: Bearer <key>", code="unauthenticated")
    return user


def maybe_user() -> CurrentUser | None:
    """The user of this request, or None in a public view that nobody logged in for."""
    return cast("CurrentUser | None", g.get("user"))


def require_operator() -> None:
    """Refuse those who may not act on the fleet."""
    if not current_user().operates:
        raise FarmError("only operators may do that", "ask an admin for the operator role", code="forbidden")


def require_admin() -> None:
    """Refuse those who may not act on users."""
    if current_user().role != "admin":
        raise FarmError("only admins may do that", "ask one", code="forbidden")


def client_address() -> str:
    return request.remote_addr or "unknown"


def find_by_key(plain: str) -> CurrentUser | None:
    """The user of an API key; every wrong key counts against the address that sent it."""
    with services().sessions() as db:
        user = users.find_by_key(db, plain, services().now())
        db.commit()
    found = None
    if user is not None:
        found = CurrentUser(
            id=user.id, name=user.name, role=user.role, by_cookie=False, limited_key=user.limited_key
        )
    if found is None:
        services().failures.hit(client_address())
    return found


def key_prefix(plain: str) -> str:
    """The part of a key that is not secret.

    >>> key_prefix("farm_ab12cd34_secret")
    'ab12cd34'
    """
    parts = plain.split("_", 2)
    return parts[1] if len(parts) == 3 else ""


def log_in(plain: str) -> CurrentUser | None:
    """Open a fresh session for the owner of the key `plain`; None when no such key is valid."""
    user = find_by_key(plain)
    session.clear()
    if user is not None:
        session[PREFIX] = key_prefix(plain)
        session.permanent = True
        g.pop("csrf_token", None)
    return user


def _user_of_session() -> CurrentUser | None:
    prefix = session.get(PREFIX)
    if not isinstance(prefix, str) or not prefix:
        return None
    with services().sessions() as db:
        row = db.execute(
            select(User.id, User.name, User.role, ApiKey.id.label("key_id"), ApiKey.running_limit)
            .join(ApiKey, ApiKey.user_id == User.id)
            .where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))
        ).one_or_none()
    if row is None:
        return None
    limited = None if row.running_limit is None else row.key_id
    return CurrentUser(id=row.id, name=row.name, role=row.role, by_cookie=True, limited_key=limited)


def _bearer() -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def safe_path(target: str, default: str = "/") -> str:
    """`target` when it is a path of this site, else `default`: a login never sends a browser elsewhere.

    >>> safe_path("/queue?state=failed"), safe_path("//evil.example"), safe_path("https://evil.example")
    ('/queue?state=failed', '/', '/')
    >>> safe_path("/\\\\evil.example"), safe_path("javascript:alert(1)"), safe_path("")
    ('/', '/', '/')
    """
    if not target.startswith("/") or target.startswith(("//", "/\\")) or "\\" in target:
        return default
    if any(ord(character) < 32 for character in target):
        return default
    parts = urlsplit(target)
    return default if parts.scheme or parts.netloc else target


def check_csrf() -> Response | None:
    """Refuse a changing request with a cookie that does not carry the page's token."""
    token = request.headers.get("X-CSRFToken") or request.form.get("csrf_token", "")
    try:
        validate_csrf(token)
    except ValidationError as error:
        return answer(403, "csrf", str(error), hint="reload the page and try again")
    return None


def _refuse() -> BaseResponse:
    if wants_html() and request.method in SAFE_METHODS and "HX-Request" not in request.headers:
        here = request.full_path if request.query_string else request.path
        return redirect(url_for("login.login_page", next=here))
    return answer(
        401,
        "unauthenticated",
        "this needs a login",
        hint="send the header Authorization: Bearer <your API key>",
    )


def make_room_for_forms() -> None:
    """Let somebody who is known send files and long texts by a form; it is read before the view runs, for its token."""
    if request.mimetype == "multipart/form-data":
        request.max_content_length = services().max_upload_bytes + FORM_BYTES
        request.max_form_memory_size = FORM_BYTES
    elif request.mimetype == "application/x-www-form-urlencoded":
        request.max_content_length = request.max_form_memory_size = FORM_BYTES


def identify() -> BaseResponse | None:
    """Find the user of a request before its view runs; refuse the request when its view needs one."""
    if request.url_rule is None or request.endpoint == "static":  # 404 and 405 need no login
        return None
    is_public = getattr(current_app.view_functions.get(request.endpoint or ""), "farm_public", False)
    if key := _bearer():
        if wait := services().failures.wait_seconds(client_address()):
            return answer(429, "too_many_requests", "too many wrong keys from this address", retry_after=wait)
        g.user = find_by_key(key)
    else:
        g.user = _user_of_session()
    if g.user is not None:
        make_room_for_forms()
    if not key and request.method not in SAFE_METHODS and (g.user is not None or is_public):
        refusal = check_csrf()
        if refusal is not None:
            return refusal
    return _refuse() if g.user is None and not is_public else None


def register(app: Flask, *, secret_key: str, secure_cookie: bool) -> None:
    """Identify the user of every request of `app`."""
    app.secret_key = secret_key
    app.config.update(
        SESSION_COOKIE_NAME="farm_session",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=secure_cookie,
        PERMANENT_SESSION_LIFETIME=30 * 24 * 3600,
        # a page may stay open for days; the token lives as long as its session
        WTF_CSRF_TIME_LIMIT=None,
    )
    app.before_request(identify)
    app.jinja_env.globals["csrf_token"] = generate_csrf
    app.jinja_env.globals["current_user"] = maybe_user
