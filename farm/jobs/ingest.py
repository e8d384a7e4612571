"""Put a model's or an adapter's files into the store and its rows into SQL: bytes first, so no row names what is not there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from farm.ids import AdapterId, ModelId, Sha256, UserId
from farm.jobs import adapters, models
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.models.families import describe
from farm.store import keys, trees
from farm.store.s3 import Store

_CHUNK = 1024 * 1024


def file_sha256(path: Path) -> Sha256:
    """SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return Sha256(digest.hexdigest())


def manifest_sha256(manifest: list[dict[str, Any]]) -> Sha256:
    """Hash of a model's manifest: equal for equal files at equal places, whatever their order."""
    return Sha256(trees.manifest_sha256((row["path"], row["sha256"]) for row in manifest))


def add_model(
    sessions: sessionmaker[Session],
    store: Store,
    owner_id: UserId,
    source: Path,
    name: str,
    now: datetime,
    on_file: Callable[[str, int], None] = lambda path, size: None,
) -> ModelId:
    """Register a diffusers folder or single-file checkpoint; `on_file` is told of each file before it goes up.

    Raises:
        BadRequest: it is no model that Farm can load; the message says why.
    """
    info = describe(source)
    manifest = []
    for relative in info.files:
        path = source / relative if source.is_dir() else source
        sha256, size = file_sha256(path), path.stat().st_size
        on_file(relative, size)
        _put_once(store, sha256, path, size)
        manifest.append({"path": relative, "sha256": sha256, "size": size})
    with sessions.begin() as session:
        return models.register_model(
            session,
            owner_id,
            name=name,
            info=info,
            manifest=manifest,
            sha256=manifest_sha256(manifest),
            now=now,
        )


def add_adapter(
    sessions: sessionmaker[Session],
    store: Store,
    owner_id: UserId,
    path: Path,
    name: str,
    now: datetime,
    preview: Path | None = None,
) -> AdapterId:
    """Inspect and register an adapter file; a name that exists gets a new version.

    Raises:
        BadRequest: it is no adapter, or damaged.
    """
    header = read_header(path)
    info = inspect(header, path.name)
    sha256, size = file_sha256(path), path.stat().st_size
    _put_once(store, sha256, path, size)
    preview_key = None
    if preview is not None:
        preview_key = keys.preview(sha256)
        store.put_bytes(preview_key, preview.read_bytes(), "image/webp")
    with sessions.begin() as session:
        return adapters.register_adapter(
            session, owner_id, name=name, file_name=path.name, sha256=sha256, size=size, header=header, info=info,
            preview_key=preview_key, now=now,
        )  # fmt: skip


def _put_once(store: Store, sha256: Sha256, path: Path, size: int) -> None:
    key = keys.blob(sha256)
    if store.size(key) != size:
        store.put_file(key, path)
