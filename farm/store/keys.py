"""Names of objects in the store: made of ids and hashes only, never of what a person typed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

#: of files that a job may make
Ending = Literal["png", "webm", "webp"]
BLOBS = "blobs/"
RESULTS = "results/"
UPLOADS = "uploads/"
CHECKPOINTS = "checkpoints/"


def blob(sha256: str) -> str:
    """A file by its content: models' files and adapters.

    >>> blob("ab" * 32)[:12]
    'blobs/ab/aba'
    """
    if not _SHA256.match(sha256):
        raise ValueError(f"{sha256!r} is no SHA-256 in lower-case hex digits")
    return f"{BLOBS}{sha256[:2]}/{sha256}"


def result(owner_id: str, job_id: str, attempt: int, index: int, ending: Ending = "png") -> str:
    """Picture or video `index` (from 0) of one attempt, or the still of a video (`webp`): a later attempt never writes
    over an earlier one's.

    >>> result("user_1", "job_1", 2, 0), result("user_1", "job_1", 2, 0, "webm")
    ('results/user_1/job_1/2/0.png', 'results/user_1/job_1/2/0.webm')
    """
    return f"{RESULTS}{_safe(owner_id)}/{_safe(job_id)}/{attempt:d}/{index:d}.{ending}"


def checkpoint(owner_id: str, job_id: str, attempt: int, number: int) -> str:
    """Checkpoint `number` of one attempt: each has a name of its own, so what a row names never changes.

    >>> checkpoint("user_1", "job_1", 2, 12)
    'checkpoints/user_1/job_1/2/12.safetensors'
    """
    return f"{CHECKPOINTS}{_safe(owner_id)}/{_safe(job_id)}/{attempt:d}/{number:d}.safetensors"


def job_of_checkpoint(key: str) -> str | None:
    """The job that a checkpoint is of; None for any other key.

    >>> job_of_checkpoint(checkpoint("user_1", "job_1", 2, 12))
    'job_1'
    """
    match = re.match(r"checkpoints/[^/]+/([^/]+)/[0-9]+/[0-9]+\.safetensors\Z", key)
    return match and match.group(1)


def upload(upload_id: str) -> str:
    """Where a browser puts a file that is not yet looked at."""
    return UPLOADS + _safe(upload_id)


def preview(name: str) -> str:
    """Preview picture of an adapter, by its version's id or its content's hash."""
    return f"previews/{_safe(name)}.webp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultKey:
    owner_id: str
    job_id: str
    attempt: int
    index: int


def parse_result(key: str) -> ResultKey | None:
    """The parts of a result's key; None for any other key.

    >>> parse_result(result("user_1", "job_1", 2, 0, "webm"))
    ResultKey(owner_id='user_1', job_id='job_1', attempt=2, index=0)
    >>> parse_result("results/user_1/notes.txt")
    """
    match = re.match(r"results/([^/]+)/([^/]+)/([0-9]+)/([0-9]+)\.(?:png|webm|webp)\Z", key)
    if match is None:
        return None
    owner_id, job_id, attempt, index = match.groups()
    return ResultKey(owner_id=owner_id, job_id=job_id, attempt=int(attempt), index=int(index))


def _safe(part: str) -> str:
    if not _SAFE.match(part):
        raise ValueError(f"{part!r} cannot stand in an object's key")
    return part
