"""Deliver one webhook safely: signed, bounded, and never to an address inside the network.

Signature: Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature with HMAC-SHA256 over id.timestamp.body).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from farm.errors import BadRequest, Transient

TIMEOUT_SECONDS = 10.0
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """All addresses of `host`."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def safe_address(url: str, *, private: bool, resolver: Resolve = resolve) -> tuple[str, int, str]:
    """(host, port, address) to connect to: resolved once, every address of the name checked.

    Raises:
        BadRequest: not https, or an address that is not public; `private` allows both.
        Transient: the name does not resolve.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("https", "http") or not host or parts.username:
        raise BadRequest(f"webhook {url!r} is not an https:// address")
    if parts.scheme == "http" and not private:
        raise BadRequest(f"webhook {url!r} is not encrypted", "use https://")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = resolver(host, port)
    except OSError as error:
        raise Transient(f"webhook host {host!r} does not resolve") from error
    for address in addresses:
        if not private and not ipaddress.ip_address(address.split("%")[0]).is_global:
            raise BadRequest(
                f"webhook host {host!r} is not public", "it resolves to an address inside the network"
            )
    return host, port, addresses[0]


def sign(secret: str, message_id: str, now: datetime, body: bytes) -> Mapping[str, str]:
    """Headers of Standard Webhooks for `body`."""
    stamp = str(int(now.timestamp()))
    mac = hmac.new(secret.encode(), b".".join([message_id.encode(), stamp.encode(), body]), hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(mac.digest()).decode(),
    }


def deliver(
    url: str, message_id: str, payload: Mapping[str, Any], *, secret: str, now: datetime, private: bool
) -> None:
    """POST `payload` as JSON; redirects are not followed, the answer's body is not read.

    Raises:
        BadRequest: the address may not be called.
        Transient: the receiver is away or did not answer 2xx.
    """
    host, port, address = safe_address(url, private=private)
    parts = urlsplit(url)
    literal = f"[{address}]" if ":" in address else address
    target = parts._replace(netloc=f"{literal}:{port}").geturl()
    body = json.dumps(payload, separators=(",", ":")).encode()
    headers = {
        "content-type": "application/json",
        "user-agent": "farm-webhooks/1",
        "host": parts.netloc,
        **sign(secret, message_id, now, body),
    }
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as client:
            request = client.build_request(
                "POST", target, content=body, headers=headers, extensions={"sni_hostname": host}
            )
            answer = client.send(request, stream=True)
            answer.close()
    except httpx.HTTPError as error:
        raise Transient(f"{type(error).__name__} from {host}") from error
    if not answer.is_success:
        raise Transient(f"{host} answered {answer.status_code}")
