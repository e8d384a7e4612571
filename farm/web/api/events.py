"""The event stream of a page: what changed, as it changes."""

from __future__ import annotations

from flask import Response
from flask_openapi.types import ResponseDict
from pydantic import Field

from farm.errors import BadRequest
from farm.web import sse
from farm.web.api.common import Strict, blueprint
from farm.web.auth import current_user
from farm.web.services import services

api = blueprint("events", "Server-sent events.")


class EventsQuery(Strict):
    topics: str = Field(",".join(sse.TOPICS), description="Comma-separated: jobs, workers, batches.")
    last_event_id: str = Field("", description="As the header Last-Event-ID, for clients that cannot set it.")


EVENT_STREAM: ResponseDict = {
    "200": {
        "description": "Events `job`, `batch` and `worker` with ids; resume with the header Last-Event-ID. "
        "`offline` and `online` tell that the broker went away and came back: read the API meanwhile.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@api.get("/events", responses=EVENT_STREAM)
def events(query: EventsQuery) -> Response:
    """Follow changes of your jobs and batches, and of the workers."""
    topics = {topic.strip() for topic in query.topics.split(",") if topic.strip()}
    unknown = topics - set(sse.TOPICS)
    if unknown or not topics:
        raise BadRequest(
            f"unknown topic '{sorted(unknown)[0]}'" if unknown else "no topic",
            f"use some of {', '.join(sse.TOPICS)}",
            code="unknown_topic",
        )
    owner = current_user().id
    frames = sse.follow(
        services(), owner_id=owner, topics=topics, after=sse.last_event_id(), gone=sse.hung_up()
    )
    return sse.stream(services(), owner, frames)
