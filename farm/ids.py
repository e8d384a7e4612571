"""Typed, sortable ids: a prefix that names the kind, then a ULID."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
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


def new_ids(prefix: str, now: datetime, count: int) -> Iterator[str]:
    """`count` ids that sort in the order in which they come, although they are of one moment.

    >>> from datetime import UTC
    >>> made = list(new_ids("job", datetime(2026, 1, 1, tzinfo=UTC), 1000))
    >>> made == sorted(set(made))
    True
    """
    moment = int(ULID.from_datetime(now)) >> 80
    # drawn anew, not taken from the last id; and so low that they do not run over into the time
    first = moment << 80 | secrets.randbelow(2**80 - count)
    return (f"{prefix}_{ULID.from_int(first + number)}" for number in range(count))
