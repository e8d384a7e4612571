"""Folders of models, made of hard links into the disk cache: no file is stored twice, and every one is verified."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Self

from farm.errors import Permanent
from farm.store.disk import CacheEntry, DiskCache


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """One file of a model: where it stands in the folder, and what it holds."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A model's folder (or its one file), pinned until `close`."""

    path: Path
    entries: tuple[CacheEntry, ...]

    @property
    def bytes_fetched(self) -> int:
        return sum(entry.bytes for entry in self.entries if not entry.hit)

    @property
    def hit(self) -> bool:
        return all(entry.hit for entry in self.entries)

    def close(self) -> None:
        for entry in self.entries:
            entry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tree(cache: DiskCache, manifest: Sequence[ManifestFile], fetch: Callable[[str, Path], None]) -> Tree:
    """Fetch what is missing with `fetch(sha256, path)` and return a folder that looks as the model was registered.

    A model of a single file gives that file's path. Safe to call from many processes for one model.

    Raises:
        Permanent: a path of the manifest leads out of the folder, or a file is damaged in the store.
        Transient: the store is away, or the disk is full.
    """
    for file in manifest:
        _check(file.path)
    with ExitStack() as undo:
        entries = []
        for file in manifest:
            entry = cache.get(file.sha256, file.size, partial(fetch, file.sha256))
            undo.callback(entry.close)
            entries.append(entry)
        folder = cache.folder / "trees" / manifest_sha256((file.path, file.sha256) for file in manifest)
        if not _is_whole(folder, manifest, entries):
            _build(cache, folder, manifest, entries)
        undo.pop_all()
    single = len(manifest) == 1 and "/" not in manifest[0].path
    return Tree(path=folder / manifest[0].path if single else folder, entries=tuple(entries))


def manifest_sha256(rows: Iterable[tuple[str, str]]) -> str:
    """Hash of a model's (path, sha256) rows: equal for equal files at equal places, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def whole_trees(cache: DiskCache) -> tuple[str, ...]:
    """Hashes of the manifests of models that lie here whole: a folder goes with the first of its files."""
    return tuple(sorted(entry.name for entry in (cache.folder / "trees").iterdir()))


def _check(path: str) -> None:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise Permanent(
            f"the model's manifest names a file outside its folder: {path!r}", code="damaged_model"
        )


def _is_whole(folder: Path, manifest: Sequence[ManifestFile], entries: Sequence[CacheEntry]) -> bool:
    """Whether every file of the folder is the very file that was verified."""
    try:
        return all(
            (folder / file.path).samefile(entry.path) for file, entry in zip(manifest, entries, strict=True)
        )
    except FileNotFoundError:
        return False


def _build(
    cache: DiskCache, folder: Path, manifest: Sequence[ManifestFile], entries: Sequence[CacheEntry]
) -> None:
    with cache.temporary_folder() as temporary:
        for file, entry in zip(manifest, entries, strict=True):
            target = temporary / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(entry.path)
        with cache.locked("trees"):
            if _is_whole(folder, manifest, entries):
                return  # another process was faster
            if folder.exists():
                # out of the way first: whoever has its files open keeps them
                stale = temporary.with_name(secrets.token_hex(8))
                folder.rename(stale)
                shutil.rmtree(stale, ignore_errors=True)
            temporary.rename(folder)
