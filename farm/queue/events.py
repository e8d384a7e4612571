"""Live events for open pages: one capped Redis stream, and the latest preview of each running job.

Publishing never fails: with Redis away the event is dropped and the log says so once. Reading raises, because a reader
tells people that it is offline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import structlog
from redis import Redis
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

Topic = Literal["jobs", "workers", "batches"]

STREAM = "farm:events"
MAX_EVENTS = 10_000
PREVIEW_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened to one thing. `owner` may see it; empty: everybody may."""

    topic: str
    type: str
    owner: str
    data: Mapping[str, Any]


def publish(redis: Redis, event: Event) -> bool:
    """Append to the stream; False when Redis is away."""
    fields = {
        "topic": event.topic,
        "type": event.type,
        "owner": event.owner,
        "data": json.dumps(event.data, separators=(",", ":")),
    }
    try:
        redis.xadd(STREAM, cast(Any, fields), maxlen=MAX_EVENTS, approximate=True)
    except (RedisError, OSError) as error:
        log.info("event_dropped", type=event.type, error=str(error))
        return False
    return True


def read(redis: Redis, after_id: str, block_ms: int, count: int = 200) -> list[tuple[str, Event]]:
    """Events after `after_id`, oldest first; waits up to `block_ms` for the first. Raises RedisError or OSError."""
    answer = cast(Any, redis.xread({STREAM: after_id}, count=count, block=block_ms))
    if not answer:
        return []
    # a list of pairs in RESP2, a mapping in RESP3
    pairs = answer.items() if isinstance(answer, Mapping) else answer
    return [
        (_text(event_id), _event(fields))
        for _, rows in pairs
        for event_id, fields in _flat(rows)
        if fields is not None
    ]


def latest_id(redis: Redis) -> str:
    """The id to read after in order to see only what comes. Raises RedisError or OSError."""
    rows = cast(Any, redis.xrevrange(STREAM, count=1))
    return _text(rows[0][0]) if rows else "0-0"


def set_preview(redis: Redis, job_id: str, webp: bytes) -> bool:
    """Keep the latest preview of a running job for a while; False when Redis is away."""
    try:
        redis.set(_preview_key(job_id), webp, ex=PREVIEW_SECONDS)
    except (RedisError, OSError) as error:
        log.info("preview_dropped", job_id=job_id, error=str(error))
        return False
    return True


def get_preview(redis: Redis, job_id: str) -> bytes | None:
    """The latest preview; None when there is none, or Redis is away."""
    try:
        return cast("bytes | None", redis.get(_preview_key(job_id)))
    except (RedisError, OSError):
        return None


def _preview_key(job_id: str) -> str:
    return f"farm:preview:{job_id}"


def _flat(rows: Any) -> Any:
    """RESP3 clients wrap the rows of a stream in one more list."""
    return (
        rows[0] if rows and isinstance(rows[0], list) and rows[0] and isinstance(rows[0][0], tuple) else rows
    )


def _event(fields: Mapping[Any, Any]) -> Event:
    plain = {_text(name): _text(value) for name, value in fields.items()}
    return Event(
        topic=plain.get("topic", ""),
        type=plain.get("type", ""),
        owner=plain.get("owner", ""),
        data=json.loads(plain.get("data") or "{}"),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
