"""Server-sent events over the Redis stream: resumable by id, scoped to their owner, honest when Redis is away.

Events are hints: a page that missed some reads the truth from the API. A stream ends after ten minutes, or when the
process is asked to stop; the browser then resumes with Last-Event-ID.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Collection, Iterator
from typing import Any

import structlog
from flask import Response, request
from redis.exceptions import RedisError

from farm.errors import FarmError
from farm.queue import events
from farm.web.services import Services

log = structlog.get_logger(__name__)

TOPICS = ("jobs", "workers", "batches")
HEARTBEAT_SECONDS = 15.0
LIFETIME_SECONDS = 600.0
RETRY_MS = 2000
BLOCK_MS = 1000
ENDED = frozenset({"succeeded", "failed", "cancelled"})

#: a frame with the present state of a thing, and whether it has ended
Truth = Callable[[], tuple[str, bool]]

_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?\Z")


def frame(data: Any, *, event: str = "", event_id: str = "") -> str:
    r"""One event on the wire.

    >>> frame({"a": 1}, event="job", event_id="5-0")
    'id: 5-0\nevent: job\ndata: {"a": 1}\n\n'
    """
    lines = [f"id: {event_id}"] if event_id else []
    if event:
        lines.append(f"event: {event}")
    lines.append(f"data: {json.dumps(data)}")
    return "\n".join(lines) + "\n\n"


def last_event_id() -> str:
    """Where the client wants to go on: the header that browsers send, or the query parameter `last_event_id`.

    An id that is none is ignored, as the specification of EventSource asks for: the stream then starts now.
    """
    given = request.headers.get("Last-Event-ID") or request.args.get("last_event_id", "")
    return given if _ID.match(given) else ""


def hung_up() -> Callable[[], bool]:
    """Whether the client of this request has gone, told by its socket without waiting for the next frame to fail.

    Somebody who turns pages quickly would else hold a slot for each until the next heartbeat.
    """
    found = request.environ.get("gunicorn.socket")
    if not isinstance(found, socket.socket):
        return lambda: False

    def gone() -> bool:
        try:
            return found.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    return gone


def follow(
    services: Services,
    *,
    owner_id: str,
    topics: Collection[str],
    after: str,
    job_id: str = "",
    truth: Truth | None = None,
    gone: Callable[[], bool] = lambda: False,
) -> Iterator[str]:
    """Frames of the events that `owner_id` may see, from after the id `after` (empty: from now on).

    With `truth`, the stream of one thing: it is asked at the start, at each heartbeat and whenever Redis is away, so
    that nothing depends on an event that was lost; the stream ends with the first true answer. It also ends once the
    client has `gone`.
    """
    clock = services.clock
    began = spoke = clock.monotonic()
    online = True
    position = after
    yield f"retry: {RETRY_MS}\n\n"
    if not position:
        # from here on, before the truth is read: what happens in between is seen twice rather than never
        position = _latest(services)
        if position:
            yield frame({}, event="hello", event_id=position)
    ask = truth is not None
    while not services.stopping.is_set() and clock.monotonic() - began < LIFETIME_SECONDS:
        if ask and truth is not None:
            text, ended = truth()
            yield text
            if ended:
                yield frame({}, event="end")
                return
            ask = False
        try:
            position = position or events.latest_id(services.stream_redis)
            found = events.read(services.stream_redis, position, BLOCK_MS)
        except (RedisError, OSError) as error:
            if online:
                log.warning("event_stream_offline", error=str(error))
                yield frame({}, event="offline")
                online, spoke = False, clock.monotonic()
            found, ask = [], truth is not None
            clock.sleep(BLOCK_MS / 1000)
        else:
            if not online:
                online = True
                yield frame({}, event="online", event_id=position)
        if gone():
            return
        for event_id, event in found:
            position = event_id
            if event.topic not in topics or event.owner not in {owner_id, ""}:
                continue
            if job_id and event.data.get("id") != job_id:
                continue
            yield frame(event.data, event=event.type, event_id=event_id)
            spoke = clock.monotonic()
            ask = truth is not None and event.data.get("state") in ENDED
        if clock.monotonic() - spoke >= HEARTBEAT_SECONDS:
            spoke, ask = clock.monotonic(), truth is not None
            yield ": heartbeat\n\n"


def _latest(services: Services) -> str:
    try:
        return events.latest_id(services.stream_redis)
    except (RedisError, OSError):
        return ""


def stream(services: Services, owner_id: str, frames: Iterator[str]) -> Response:
    """An answer that sends `frames` as they come, and holds one of the owner's stream slots meanwhile.

    Raises:
        FarmError: too many streams are open.
    """
    if not services.streams.take(owner_id):
        raise FarmError("too many open event streams", "close a page of this farm", code="too_many_streams")

    response = Response(frames, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    # by the response, not by the generator: one that never started is never closed
    response.call_on_close(lambda: services.streams.give(owner_id))
    return response
