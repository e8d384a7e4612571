"""The farm's event stream, read as it comes; after a break it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from farm.client.http import Client, error_of
from farm.errors import Transient

PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmEvent:
    """One event: a `job`, `batch` or `worker` has changed; `offline` and `online` tell of the broker."""

    type: str
    data: dict[str, Any]
    #: resume after this one with `after`
    id: str


def follow(
    client: Client,
    *,
    topics: Sequence[str] = ("jobs", "workers", "batches"),
    job_id: str = "",
    after: str = "",
    breaks: int | None = None,
) -> Iterator[FarmEvent]:
    """Events of `topics`, or those of one job until it has ended, from after the id `after` (empty: from now on).

    Args:
        breaks: give up after this many broken connections in a row; None: never.

    Raises:
        NotFound, BadRequest: no such job; a wrong key.
        Transient: the connection broke more than `breaks` times.
    """
    path = f"/jobs/{job_id}/events" if job_id else f"/events?topics={','.join(topics)}"
    broken = 0
    while True:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        try:
            with client.stream(path, headers=headers) as response:
                if not response.is_success:
                    response.read()
                    error = error_of(response)
                    if not isinstance(error, Transient):
                        raise error
                    raise httpx.ReadError(str(error))
                for item in EventSource(response).iter_sse():
                    broken = 0
                    after = item.id or after
                    if item.event == "end":
                        return
                    if item.event == "hello" or not item.data:  # only an id, or only the pause between tries
                        continue
                    yield FarmEvent(type=item.event, data=item.json(), id=item.id)
        except (httpx.TransportError, SSEError) as error:
            broken += 1
            if breaks is not None and broken > breaks:
                raise Transient(f"the event stream broke: {error}") from None
        client.clock.sleep(PAUSE_SECONDS)
