"""The event stream: resumable, scoped to its owner, honest when Redis is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisAway

from farm.queue import events
from farm.queue.events import Event
from farm.web import sse
from tests.support.web import WebFarm


@dataclass
class Seen:
    event: str
    id: str
    data: Any
    comment: str = ""
    retry: str = ""


def parsed(chunks: Iterator[Any]) -> Iterator[Seen]:
    """Events as a browser reads them."""
    buffer = ""
    for chunk in chunks:
        buffer += chunk.decode() if isinstance(chunk, bytes) else chunk
        while "\n\n" in buffer:
            block, buffer = buffer.split("\n\n", 1)
            seen = Seen("message", "", None)
            for line in block.split("\n"):
                name, _, value = line.partition(": ")
                if not name:
                    seen.comment = value
                elif name == "data":
                    seen.data = json.loads(value)
                else:
                    setattr(seen, name, value)
            yield seen


TYPES = {"jobs": "job", "batches": "batch", "workers": "worker"}


def open_stream(farm: WebFarm, query: str = "", **headers: str) -> Iterator[Seen]:
    answer = farm.get(f"/events{query}", headers=headers, buffered=False)
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    return parsed(iter(answer.response))


def tell(redis: Redis, owner: str, number: int, topic: str = "jobs") -> None:
    events.publish(redis, Event(topic=topic, type=TYPES[topic], owner=owner, data={"id": f"n{number}"}))


def test_a_stream_starts_now_and_says_where(farm: WebFarm, redis: Redis):
    tell(redis, farm.owner_id, 1)
    stream = open_stream(farm)
    assert next(stream).retry == "2000"
    hello = next(stream)
    assert hello.event == "hello"
    assert hello.id == events.latest_id(redis)
    tell(redis, farm.owner_id, 2)
    seen = next(stream)
    assert (seen.event, seen.data) == ("job", {"id": "n2"})
    assert seen.id == events.latest_id(redis)


def test_a_stream_goes_on_where_it_broke(farm: WebFarm, redis: Redis):
    for number in range(5):
        tell(redis, farm.owner_id, number)
    ids = [event_id for event_id, _ in events.read(redis, "0-0", 10)]
    for stream in (
        open_stream(farm, **{"Last-Event-ID": ids[1]}),
        open_stream(farm, f"?last_event_id={ids[1]}"),
    ):
        next(stream)
        assert [next(stream).data["id"] for _ in range(3)] == ["n2", "n3", "n4"]


@pytest.mark.parametrize("wrong", ["x", "1-2-3", "-", "$", "1; DROP", "9" * 40])
def test_an_id_that_is_none_starts_now(farm: WebFarm, redis: Redis, wrong: str):
    tell(redis, farm.owner_id, 1)
    stream = open_stream(farm, **{"Last-Event-ID": wrong})
    next(stream)
    assert next(stream).event == "hello"


def test_nobody_sees_what_is_anothers(farm: WebFarm, redis: Redis):
    stream = open_stream(farm, "?last_event_id=0-0")
    next(stream)
    tell(redis, farm.stranger_id, 1)
    tell(redis, farm.stranger_id, 2, "batches")
    tell(redis, farm.owner_id, 3)
    tell(redis, "", 4, "workers")
    assert [next(stream).data["id"] for _ in range(2)] == ["n3", "n4"]


def test_topics_are_chosen(farm: WebFarm, redis: Redis):
    stream = open_stream(farm, "?topics=workers,batches&last_event_id=0-0")
    next(stream)
    tell(redis, farm.owner_id, 1)
    tell(redis, farm.owner_id, 2, "batches")
    tell(redis, "", 3, "workers")
    assert [next(stream).event for _ in range(2)] == ["batch", "worker"]


@pytest.mark.parametrize("topics", ["job", "jobs,users", "", ","])
def test_unknown_topics_are_refused(farm: WebFarm, topics: str):
    answer = farm.get(f"/events?topics={topics}")
    assert answer.status_code == 422
    assert answer.get_json()["code"] == "unknown_topic"


def test_silence_is_filled_with_heartbeats(farm: WebFarm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(sse, "BLOCK_MS", 100)
    stream = open_stream(farm)
    next(stream), next(stream)
    assert next(stream).comment == "heartbeat"


def test_a_stream_ends_after_its_time_and_at_stop(farm: WebFarm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sse, "LIFETIME_SECONDS", 0.2)
    monkeypatch.setattr(sse, "BLOCK_MS", 50)
    assert [seen.event for seen in open_stream(farm)] == ["message", "hello"]
    monkeypatch.setattr(sse, "LIFETIME_SECONDS", 600)
    stream = open_stream(farm)
    next(stream), next(stream)
    farm.services.stopping.set()
    assert list(stream) == []


def test_a_stream_says_that_redis_is_away_and_back(
    farm: WebFarm, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sse, "BLOCK_MS", 50)
    stream = open_stream(farm)
    next(stream), next(stream)
    working = events.read

    def away(*args: Any) -> Any:
        raise RedisAway("connection refused")

    monkeypatch.setattr("farm.queue.events.read", away)
    assert next(stream).event == "offline"
    tell(redis, farm.owner_id, 1)
    monkeypatch.setattr("farm.queue.events.read", working)
    assert next(stream).event == "online"
    assert next(stream).data == {"id": "n1"}


def test_so_many_streams_and_no_more(farm: WebFarm):
    answers = [farm.get("/events", buffered=False) for _ in range(12)]
    refused = farm.get("/events")
    assert refused.status_code == 429
    assert refused.get_json()["code"] == "too_many_streams"
    assert farm.get("/events", key=farm.stranger_key, buffered=False).status_code == 200
    answers[0].close()
    assert farm.get("/events", buffered=False).status_code == 200
