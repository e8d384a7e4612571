"""Headers, the Host allowlist and the secret of the session cookie: what guards every answer alike."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from flask import Flask, Response, g, request
from ulid import ULID

from farm.web.errors import answer
from farm.web.services import services

#: probed by orchestrators under the address of a container
OPEN_TO_ANY_HOST = frozenset({"/healthz", "/readyz"})


def host_name(netloc: str) -> str:
    """The name in a Host header, without its port.

    >>> host_name("[::1]:8484"), host_name("farm.lan:80"), host_name("LOCALHOST")
    ('[::1]', 'farm.lan', 'localhost')
    """
    name = netloc.strip().lower()
    if name.startswith("["):
        return name[: name.find("]") + 1]
    return name.split(":", 1)[0].rstrip(".")


def allowed_hosts(setting: str, listening_on: str) -> frozenset[str]:
    """The names of `setting` (comma-separated), and the address listened on unless that is a wildcard."""
    names = {host_name(part) for part in setting.split(",") if part.strip()}
    if listening_on not in {"", "0.0.0.0", "::", "[::]"}:
        names.add(f"[{listening_on}]" if ":" in listening_on.strip("[]") else listening_on.lower())
    return frozenset(names)


def origin_of(url: str) -> str:
    """Scheme, host and port of `url`.

    >>> origin_of("http://127.0.0.1:8333/farm/x?y=1")
    'http://127.0.0.1:8333'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else ""


def content_security_policy(nonce: str, store_origin: str) -> str:
    """Only our own scripts and styles run; pictures, videos and uploads may also go to the store."""
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' 'nonce-{nonce}'",
            f"style-src 'self' 'nonce-{nonce}'",
            "style-src-attr 'unsafe-inline'",
            f"img-src 'self' data: blob: {store_origin}".rstrip(),
            f"media-src 'self' {store_origin}".rstrip(),
            f"connect-src 'self' {store_origin}".rstrip(),
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def secret_key(data_dir: Path, given: str) -> str:
    """The key that signs session cookies: `given`, or one made once and kept in the data folder."""
    if given:
        return given
    path = data_dir / "secret-key"
    data_dir.mkdir(parents=True, exist_ok=True)
    write_secret(path, secrets.token_urlsafe(48))
    return path.read_text().strip()


def write_secret(path: Path, text: str, *, replace: bool = False) -> None:
    """Write `text` to a file that only its owner may read; without `replace`, a file that is there stays.

    The file appears whole or not at all, also for another process that starts at the same time.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
    if replace:
        draft.replace(path)
        return
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def register(app: Flask) -> None:
    """Guard every request and every answer of `app`."""

    @app.before_request
    def identify() -> Response | None:
        g.request_id = str(ULID())
        g.csp_nonce = secrets.token_urlsafe(16)
        if "\0" in request.path or "\0" in unquote_to_bytes(request.query_string).decode("latin-1"):
            return answer(400, "malformed", "the address holds a NUL character")
        if request.path in OPEN_TO_ANY_HOST or host_name(request.host) in services().allowed_hosts:
            return None
        return answer(
            421,
            "unknown_host",
            "this farm does not answer under that host name",
            hint="add it to FARM_ALLOWED_HOSTS",
        )

    @app.after_request
    def headers(response: Response) -> Response:
        set_default = response.headers.setdefault
        set_default("X-Content-Type-Options", "nosniff")
        set_default("X-Frame-Options", "DENY")
        set_default("Referrer-Policy", "no-referrer")
        set_default("Cross-Origin-Opener-Policy", "same-origin")
        set_default("Cross-Origin-Resource-Policy", "same-origin")
        set_default("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
        set_default("X-Request-Id", g.get("request_id", ""))
        set_default(
            "Content-Security-Policy",
            content_security_policy(g.get("csp_nonce", ""), services().store_origin),
        )
        if request.endpoint != "static":
            set_default(
                "Cache-Control", "no-store" if request.path.startswith("/login") else "private, no-cache"
            )
        return response
