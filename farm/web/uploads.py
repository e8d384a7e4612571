"""Uploads of adapters: straight into the store by a presigned address, or through this process; inspected before kept.

A file that is refused leaves nothing behind: neither an object nor a row.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from farm.db.models import Upload
from farm.db.rows import changed
from farm.errors import BadRequest, Conflict, FarmError, NotFound
from farm.ids import AdapterId, UserId, new_id
from farm.jobs import adapters
from farm.jobs.adapter_names import adapter_name
from farm.lora.formats.header import Header, header_length, parse_header, read_header
from farm.lora.formats.inspect import AdapterInfo, inspect
from farm.store import keys
from farm.store.s3 import Store
from farm.web.services import Services

log = structlog.get_logger(__name__)

PUT_SECONDS = 15 * 60
CHUNK_BYTES = 8 * 1024 * 1024
#: most headers fit into one read of this size
FIRST_BYTES = 64 * 1024
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An upload that waits for its bytes."""

    id: str
    method: str
    url: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """A file that is an adapter."""

    header: Header
    info: AdapterInfo
    sha256: str
    size: int


def check_size(size: int, most: int) -> None:
    """Refuse files that cannot be adapters by their size alone.

    Raises:
        BadRequest: too small or too large.
    """
    if size <= _LENGTH_BYTES:
        raise BadRequest(
            f"the file has {size} bytes", "it was cut short, or is no safetensors file", code="truncated"
        )
    if size > most:
        raise BadRequest(
            f"the file has {size} bytes, {most} are allowed",
            "FARM_MAX_UPLOAD_BYTES raises it",
            code="file_too_large",
        )


def begin(
    services: Services, session: Session, owner_id: str, *, name: str, file_name: str, size: int
) -> Begun:
    """Make room for a file of `size` bytes and say where to put it, for the next 15 minutes.

    Raises:
        BadRequest: the name or the size is no good.
    """
    check_size(size, services.max_upload_bytes)
    now = services.now()
    upload_id = new_id("upload", now)
    key = keys.upload(upload_id)
    session.add(
        Upload(
            id=upload_id,
            owner_id=owner_id,
            name=adapter_name(name, file_name),
            file_name=file_name[-200:],
            size=size,
            object_key=key,
            created_at=now,
            completed_at=None,
        )
    )
    session.flush()
    url = services.store.presigned_put(key, seconds=PUT_SECONDS, size=size)
    return Begun(id=upload_id, method="PUT", url=url, headers={})


def complete(services: Services, owner_id: str, upload_id: str) -> AdapterId:
    """Inspect the uploaded object and make it an adapter; a refused object is deleted, and its row with it.

    Raises:
        NotFound: no such upload of this owner.
        Conflict: the bytes have not arrived, or it was completed before.
        BadRequest: it is no adapter, or damaged; the message says what was found.
    """
    with services.sessions() as session:
        upload = session.scalar(select(Upload).where(Upload.id == upload_id, Upload.owner_id == owner_id))
        if upload is None:
            raise NotFound("no such upload", "begin one with POST /api/v1/loras", code="no_upload")
        if upload.completed_at is not None:
            raise Conflict("this upload was completed before", code="upload_completed")
        key, name, file_name, size = upload.object_key, upload.name, upload.file_name, upload.size
    store = services.store
    found = store.size(key)
    if found is None:
        raise Conflict(
            "the file has not arrived yet", "PUT it to the upload's address first", code="upload_missing"
        )
    try:
        if found != size:
            raise BadRequest(
                f"{file_name}: {found} bytes arrived, {size} were announced",
                "upload it again",
                code="truncated",
            )
        inspect_object(store, key, size, file_name)
        # what is kept is what was hashed and parsed here: the address may be written to again meanwhile
        with tempfile.TemporaryDirectory(prefix="farm-upload-") as folder:
            file = take(store, store.iter_bytes(key, CHUNK_BYTES), Path(folder) / "file", size, file_name)
    except BadRequest:
        _discard(services, upload_id, key)
        raise
    try:
        adapter_id = register(services, owner_id, file, name=name, file_name=file_name, upload_id=upload_id)
    except Conflict as error:
        if error.code == "name_taken":
            _discard(services, upload_id, key)
        raise
    store.delete(key)
    return adapter_id


def receive(services: Services, owner_id: str, stream: IO[bytes], *, name: str, file_name: str) -> AdapterId:
    """Take a file that came with the request itself, for small files and pages without scripts.

    Raises:
        BadRequest: it is no adapter, or damaged; nothing was kept.
    """
    name = adapter_name(name, file_name)
    with tempfile.TemporaryDirectory(prefix="farm-upload-") as folder:
        pieces = iter(lambda: stream.read(CHUNK_BYTES), b"")
        file = take(services.store, pieces, Path(folder) / "file", services.max_upload_bytes, file_name)
    return register(services, owner_id, file, name=name, file_name=file_name[-200:])


def inspect_object(store: Store, key: str, size: int, file_name: str) -> AdapterInfo:
    """What an object is, told from its first bytes alone.

    Raises:
        BadRequest: it is no adapter, or damaged.
    """
    first = store.get_range(key, 0, min(FIRST_BYTES, size))
    needed = _LENGTH_BYTES + header_length(first[:_LENGTH_BYTES], size)
    if needed > len(first):
        first += store.get_range(key, len(first), needed - len(first))
    header = parse_header(first[:needed], size)
    return inspect(header, file_name)


def take(store: Store, pieces: Iterable[bytes], path: Path, most: int, file_name: str) -> Inspected:
    """Write the pieces to `path`, inspect the file, and put it where its content says; `path` is then free.

    Raises:
        BadRequest: it is no adapter, damaged, or has more than `most` bytes; nothing was kept.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        for piece in pieces:
            size += len(piece)
            if size > most:
                check_size(size, most)
            digest.update(piece)
            target.write(piece)
    check_size(size, most)
    header = read_header(path)
    info = inspect(header, file_name)
    sha256 = digest.hexdigest()
    key = keys.blob(sha256)
    if store.size(key) != size:
        store.put_file(key, path)
    return Inspected(header=header, info=info, sha256=sha256, size=size)


def register(
    services: Services, owner_id: str, file: Inspected, *, name: str, file_name: str, upload_id: str = ""
) -> AdapterId:
    """Write the rows of an adapter whose bytes are in the store, and finish its upload, in one transaction."""
    now: datetime = services.now()
    with services.sessions() as session:
        if upload_id:
            done = session.execute(
                update(Upload)
                .where(Upload.id == upload_id, Upload.completed_at.is_(None))
                .values(completed_at=now)
            )
            if changed(done) != 1:
                raise Conflict("this upload was completed before", code="upload_completed")
        adapter_id = adapters.register_adapter(
            session,
            UserId(owner_id),
            name=name,
            file_name=file_name,
            sha256=file.sha256,
            size=file.size,
            header=file.header,
            info=file.info,
            now=now,
        )
        session.commit()
    return adapter_id


def _discard(services: Services, upload_id: str, key: str) -> None:
    """Remove what a refused upload left; the refusal is told even when this fails."""
    try:
        services.store.delete(key)
    except FarmError as error:
        log.warning("refused_upload_stays", key=key, error=str(error))
        return
    with services.sessions() as session:
        session.execute(delete(Upload).where(Upload.id == upload_id))
        session.commit()
