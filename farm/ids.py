"""Typed, sortable ids: a prefix that names the kind, then a ULID."""

from __future__ import annotations

from datetime import datetime
from typing import NewType

from ulid import ULID

JobId = NewType("JobId", str)
BatchId = NewType("BatchId", str)
ImageId = NewType("ImageId", str)
AdapterId = NewType("AdapterId", str)
ModelId = NewType("ModelId", str)
WorkerId = NewType("WorkerId", str)
UserId = NewType("UserId", str)
Sha256 = NewType("Sha256", str)


def new_id(prefix: str, now: datetime) -> str:
    """`job_01J…`: sorts by `now` (to the millisecond), unique by 80 random bits."""
    return f"{prefix}_{ULID.from_datetime(now)}"
