"""Content-addressed cache of the store's files on this machine's disk, shared by all workers of the machine.

A file becomes visible only whole: it is fetched to `tmp/`, its size and SHA-256 are verified, it is synced to disk and
then renamed. Everything that is handed out is pinned by a shared lock on the open file until it is closed, and eviction
takes an exclusive one: so no process evicts what another works with, and a killed process pins nothing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import structlog

from farm.clock import Clock, SystemClock
from farm.errors import Permanent, Transient

log = structlog.get_logger(__name__)

_CHUNK = 1024 * 1024
_FETCH_TRIES = 2
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A verified file, pinned until `close`."""

    path: Path
    #: it lay on the disk already
    hit: bool
    bytes: int
    #: how long it took until the file was there
    seconds: float
    pin: BinaryIO

    def close(self) -> None:
        self.pin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Blob:
    path: Path
    size: int
    used: float


class DiskCache:
    """Files by SHA-256 under `folder`; at most `limit_bytes` of them, the least recently used go first."""

    def __init__(self, folder: Path, limit_bytes: int, clock: Clock | None = None):
        self.folder = folder.absolute()
        self._limit = limit_bytes
        self._clock = clock or SystemClock()
        #: what this process has hashed since it last changed: (inode, size, mtime)
        self._verified: set[tuple[int, int, int]] = set()
        for name in ("blobs", "locks", "tmp", "trees"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._sweep_tmp()
        self._tmp = self.folder / "tmp" / secrets.token_hex(8)
        self._tmp.mkdir()
        self._tmp_pin = (self._tmp / "lock").open("wb")
        fcntl.flock(self._tmp_pin, fcntl.LOCK_EX)

    def close(self) -> None:
        """Forget this process' temporary files. The cache itself stays."""
        self._tmp_pin.close()
        shutil.rmtree(self._tmp, ignore_errors=True)

    def get(self, sha256: str, size: int, fetch: Callable[[Path], None]) -> CacheEntry:
        """The file with this content, pinned; `fetch(path)` writes it when it is not here or damaged.

        Of several calls for one file at a time, in one process or many, one fetches and the others wait for it.

        Raises:
            Transient: `fetch` did, or the disk is full even after evicting everything that may go.
            Permanent: what was fetched twice does not have this hash.
        """
        began = self._clock.monotonic()
        path = self.path(sha256)
        hit = True
        with self.locked(sha256[:3]):
            pin = self._open_good(path, sha256, size)
            if pin is None:
                hit = False
                self.make_room(size)
                pin = self._fetch(path, sha256, size, fetch)
        status = os.fstat(pin.fileno())
        # the access time is the time of last use; the time of last change tells whether to hash again
        os.utime(path, ns=(int(self._clock.now().timestamp() * 1e9), status.st_mtime_ns))
        return CacheEntry(path=path, hit=hit, bytes=size, seconds=self._clock.monotonic() - began, pin=pin)

    def discard(self, sha256: str) -> None:
        """Forget a file that turned out to be unusable; the next `get` fetches it anew."""
        self.path(sha256).unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256[:2] / sha256

    def hashes(self, limit: int = 500) -> tuple[str, ...]:
        """What lies here, most recently used first."""
        blobs = sorted(self._blobs(), key=lambda blob: blob.used, reverse=True)
        return tuple(blob.path.name for blob in blobs[:limit])

    def total_bytes(self) -> int:
        return sum(blob.size for blob in self._blobs())

    def holds(self, sha256: str, size: int) -> bool:
        """Whether a file of this name and size lies here; `get` looks into it."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def try_room(self, size: int, idle_seconds: float) -> bool:
        """`make_room`, but of files that were not used for so long only; whether there is room now."""
        self._make_room(size, self._clock.now().timestamp() - idle_seconds)
        return self.total_bytes() + size <= self._limit

    def make_room(self, size: int) -> int:
        """Evict least recently used files until `size` more bytes fit the limit; returns the bytes freed.

        What is pinned stays, so a limit smaller than what is worked with at once is exceeded rather than fatal.
        """
        freed, excess = self._make_room(size, math.inf)
        if excess > freed:
            log.warning("disk_cache_over_limit", limit_bytes=self._limit, over_bytes=excess - freed)
        return freed

    def _make_room(self, size: int, before: float) -> tuple[int, int]:
        """Evict of what was used before that time; the bytes freed, and those that were too many."""
        freed = 0
        with self.locked("evict"):
            blobs = sorted(self._blobs(), key=lambda blob: blob.used)
            excess = sum(blob.size for blob in blobs) + size - self._limit
            for blob in blobs:
                if excess <= freed or blob.used >= before:
                    break
                if self._evict(blob.path):
                    freed += blob.size
        return freed, excess

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder on the cache's own disk; what is still in it afterwards is removed."""
        folder = self._tmp / secrets.token_hex(8)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _open_good(self, path: Path, sha256: str, size: int) -> BinaryIO | None:
        """The file pinned, if it is here and holds what it should; a damaged one is removed."""
        try:
            pin = path.open("rb")
        except FileNotFoundError:
            return None
        fcntl.flock(pin, fcntl.LOCK_SH)
        status = os.fstat(pin.fileno())
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        # between open and lock it may have been evicted
        if status.st_nlink and path.exists():
            if status.st_size == size and (mark in self._verified or _hash(pin) == sha256):
                self._verified.add(mark)
                return pin
            log.warning("cached_file_damaged", sha256=sha256[:12], bytes=status.st_size, wanted_bytes=size)
            path.unlink(missing_ok=True)
        pin.close()
        return None

    def _fetch(self, path: Path, sha256: str, size: int, fetch: Callable[[Path], None]) -> BinaryIO:
        found = ""
        for left in reversed(range(_FETCH_TRIES)):
            temporary = self._tmp / secrets.token_hex(8)
            try:
                fetch(temporary)
                found = self._wrong(temporary, sha256, size)
                if not found:
                    return self._admit(temporary, path)
                log.warning("fetched_file_damaged", sha256=sha256[:12], found=found, tries_left=left)
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    raise
                # everything that may go makes room for one more try
                freed = self.make_room(self._limit)
                if not left or not freed:
                    raise Transient(
                        f"the disk of {self.folder} is full: a file of {size} bytes does not fit",
                        code="disk_full",
                    ) from error
            finally:
                temporary.unlink(missing_ok=True)
        raise Permanent(
            f"the store's copy of {sha256} is damaged: {found}", "upload the file again", code="damaged_file"
        )

    @staticmethod
    def _wrong(temporary: Path, sha256: str, size: int) -> str:
        """What is wrong with a fetched file, in words; empty when nothing is."""
        with temporary.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                return f"{found} bytes instead of {size}"
            digest = _hash(file)
            return "" if digest == sha256 else f"its SHA-256 is {digest}"

    def _admit(self, temporary: Path, path: Path) -> BinaryIO:
        """Make a verified file visible, safe from a power cut, and pin it."""
        path.parent.mkdir(exist_ok=True)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        pin = temporary.open("rb")
        fcntl.flock(pin, fcntl.LOCK_SH)
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        status = os.fstat(pin.fileno())
        self._verified.add((status.st_ino, status.st_size, status.st_mtime_ns))
        return pin

    def _evict(self, path: Path) -> bool:
        """Remove a file that nobody has pinned, and the model folders that hold it; False when it is in use."""
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inode = os.fstat(file.fileno()).st_ino
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            return False
        for tree in (self.folder / "trees").iterdir():
            if any(entry.is_file() and entry.stat().st_ino == inode for entry in tree.rglob("*")):
                shutil.rmtree(tree, ignore_errors=True)
        return True

    def _blobs(self) -> Iterator[_Blob]:
        for folder in os.scandir(self.folder / "blobs"):
            for entry in os.scandir(folder):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                yield _Blob(Path(entry.path), status.st_size, status.st_atime)

    def _sweep_tmp(self) -> None:
        """Remove what killed processes left half-done: folders whose lock nobody holds."""
        for folder in (self.folder / "tmp").iterdir():
            try:
                with (folder / "lock").open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            except (FileNotFoundError, NotADirectoryError, BlockingIOError):
                continue  # in use, or being made at this moment

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """One holder at a time among all threads and processes; a killed one lets go."""
        with (self.folder / "locks" / name).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def try_locked(self, name: str) -> Iterator[bool]:
        """As `locked`, without waiting: whether it was free."""
        with (self.folder / "locks" / name).open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def _hash(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
