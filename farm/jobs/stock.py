"""Rows against objects: after a restore of one of the two, what is named and not there, and what is there and named by nobody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from farm.db.models import AdapterVersion, Image, Model
from farm.store import keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What does not fit, in order of names."""

    #: (what a person knows it by, key) of every object that a row names and the store has not
    missing: tuple[tuple[str, str], ...]
    #: keys of objects that no row names; a day later results among them are swept
    orphans: tuple[str, ...]


def take_stock(session: Session, stored: Iterable[str]) -> Stock:
    """Compare the rows with `stored`, the keys under `keys.BLOBS` and `keys.RESULTS`."""
    named: dict[str, str] = {}
    images = select(Image.id, Image.object_key, Image.poster_key).where(Image.deleted_at.is_(None))
    for image_id, *objects in session.execute(images):
        named |= {key: f"image {image_id}" for key in objects if key}
    for sha256, file_name in session.execute(select(AdapterVersion.sha256, AdapterVersion.file_name)):
        named[keys.blob(sha256)] = f"adapter file {file_name}"
    for name, manifest in session.execute(select(Model.name, Model.manifest)):
        named |= {keys.blob(file["sha256"]): f"model {name}, file {file['path']}" for file in manifest}
    have = set(stored)
    return Stock(
        missing=tuple(sorted((what, key) for key, what in named.items() if key not in have)),
        orphans=tuple(sorted(have - named.keys())),
    )
