"""Bytes to and from a farm: downloads that are whole or not there, uploads straight into the store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx

from farm.client.http import API, Client, error_of
from farm.errors import Permanent, Transient

CHUNK_BYTES = 1024 * 1024


def chunks(path: Path) -> Iterator[bytes]:
    """The content of a file in pieces."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def download(client: Client, path: str, target: Path, sha256: str = "") -> Path:
    """Fetch what `path` leads to into `target`; the file appears whole and, with `sha256`, checked.

    Raises:
        Permanent: the bytes are not those that the farm recorded.
        Transient: the store does not answer.
    """
    answer = client.request("GET", path.removeprefix(API))
    content = answer.content if not answer.is_redirect else _fetch(answer.headers["Location"])
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise Permanent(
            f"{path}: the bytes are not those that were recorded", f"sha256 {found}, wanted {sha256}"
        )
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(target)
    return target


def _fetch(url: str) -> bytes:
    """Get a presigned address; the API key is not sent there."""
    try:
        response = httpx.get(url, timeout=httpx.Timeout(60.0, connect=5.0))
    except httpx.TransportError as error:
        raise Transient(f"the store does not answer: {error}") from None
    if not response.is_success:
        raise error_of(response)
    return response.content


def put(url: str, path: Path, headers: dict[str, str]) -> bool:
    """Send a file to a presigned address; False when the store cannot be reached from here.

    Raises:
        Permanent, BadRequest, Transient: the store refused it.
    """
    sent = {**headers, "Content-Length": str(path.stat().st_size)}
    try:
        response = httpx.put(
            url, content=chunks(path), headers=sent, timeout=httpx.Timeout(600.0, connect=5.0)
        )
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return False
    except httpx.TransportError as error:
        raise Transient(f"the upload broke off: {error}", "try again") from None
    if not response.is_success:
        raise error_of(response)
    return True
