"""Messages, events and the bell against a real Redis."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import RedisError

from farm.queue import events, wake
from farm.queue.celery import make_app, queue_name
from farm.queue.events import Event
from farm.queue.messages import RenderMessage, parse_render, send_render
from farm.queue.redis import connect


@pytest.fixture
def away() -> Iterator[Redis]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield connect(f"redis://127.0.0.1:{taken.getsockname()[1]}/0")


def job_event(number: int, owner: str = "user_1") -> Event:
    return Event(topic="jobs", type="job", owner=owner, data={"id": f"job_{number}", "step": number})


def test_a_message_goes_to_one_workers_queue_as_json_without_any_truth(redis_url: str, redis: Redis) -> None:
    app = make_app(redis_url)
    assert send_render(app, "worker_a", RenderMessage(job="job_1", attempt=2))
    assert redis.llen("farm:" + queue_name("worker_a")) == 1
    envelope = json.loads(redis.lpop("farm:" + queue_name("worker_a")))
    assert envelope["content-type"] == "application/json"
    assert envelope["headers"]["task"] == "farm.render"
    assert not redis.exists("farm:" + queue_name("worker_b"))


def test_a_message_comes_back_whole(redis_url: str) -> None:
    app = make_app(redis_url)
    message = RenderMessage(job="job_1", attempt=2)
    send_render(app, "worker_a", message)
    with app.connection_for_read() as connection, connection.SimpleQueue(queue_name("worker_a")) as queue:
        received = queue.get(timeout=30)
        received.ack()
    assert parse_render(received.payload[1]) == message


@pytest.mark.parametrize("body", [
    {}, {"v": 2, "job": "j", "attempt": 1}, {"v": 1, "job": 7, "attempt": 1}, {"v": 1, "job": "j", "attempt": "1"},
    {"v": 1, "job": "j", "attempt": True}, {"v": 1, "job": "j"},
])  # fmt: skip
def test_what_is_no_message_is_none(body: dict[str, object]) -> None:
    assert parse_render(body) is None


def test_sending_without_redis_says_so_and_is_quick() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        app = make_app(f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
        began = time.monotonic()
        assert not send_render(app, "worker_a", RenderMessage(job="job_1", attempt=1))
        assert time.monotonic() - began < 20


def test_events_are_read_in_order_and_from_where_one_left_off(redis: Redis) -> None:
    assert events.latest_id(redis) == "0-0"
    for number in range(5):
        assert events.publish(redis, job_event(number))
    found = events.read(redis, "0-0", 10)
    assert [event for _, event in found] == [job_event(number) for number in range(5)]
    assert [event.data["step"] for _, event in events.read(redis, found[2][0], 10)] == [3, 4]
    assert events.latest_id(redis) == found[-1][0]
    assert events.read(redis, events.latest_id(redis), 10) == []


def test_a_reader_wakes_when_something_comes(redis: Redis, redis_url: str) -> None:
    found: list[list[tuple[str, Event]]] = []
    reader = threading.Thread(target=lambda: found.append(events.read(connect(redis_url), "$", 4000)))
    reader.start()
    while not any("b" in client["flags"] for client in redis.client_list()):  # one waits for an entry
        time.sleep(0.01)
    events.publish(redis, job_event(1))
    reader.join()
    assert [event for _, event in found[0]] == [job_event(1)]


def test_the_stream_is_capped(redis: Redis) -> None:
    with redis.pipeline(transaction=False) as pipe:
        for _ in range(events.MAX_EVENTS + 500):
            pipe.xadd(events.STREAM, {"data": "{}"})
        pipe.execute()
    events.publish(redis, job_event(1))
    assert redis.xlen(events.STREAM) <= events.MAX_EVENTS + 200


def test_readers_that_ask_for_text_or_for_the_older_protocol_see_the_same(
    redis_url: str, redis: Redis
) -> None:
    events.publish(redis, job_event(1))
    for client in (
        Redis.from_url(redis_url, decode_responses=True), Redis.from_url(redis_url, protocol=2),
        Redis.from_url(redis_url, protocol=3),
    ):  # fmt: skip
        with client:
            assert [event for _, event in events.read(client, "0-0", 10)] == [job_event(1)]


def test_previews_are_kept_for_a_while(redis: Redis) -> None:
    assert events.get_preview(redis, "job_1") is None
    assert events.set_preview(redis, "job_1", b"webp")
    assert events.get_preview(redis, "job_1") == b"webp"
    assert 0 < redis.ttl("farm:preview:job_1") <= events.PREVIEW_SECONDS


def test_without_redis_publishing_is_quiet_and_reading_is_not(away: Redis) -> None:
    assert not events.publish(away, job_event(1))
    assert not events.set_preview(away, "job_1", b"")
    assert events.get_preview(away, "job_1") is None
    assert not wake.ring(away)
    with pytest.raises((RedisError, OSError)):
        events.read(away, "0-0", 10)
    began = time.monotonic()
    assert not wake.wait(away, 0.2)
    assert time.monotonic() - began >= 0.2


def test_a_ring_wakes_every_waiting_scheduler_and_none_is_missed(redis: Redis, redis_url: str) -> None:
    first, second = connect(redis_url), connect(redis_url)
    assert not wake.wait(first, 0.01)
    assert not wake.wait(second, 0.01)
    assert wake.ring(redis)
    wake.ring(redis)
    assert wake.wait(first, 30)
    assert wake.wait(second, 30)
    assert not wake.wait(first, 0.01)
    assert redis.xlen(wake.BELL) == 1
    first.close()
    second.close()


def test_the_bell_works_again_after_redis_lost_everything(redis: Redis, redis_url: str) -> None:
    client = connect(redis_url)
    wake.ring(redis)
    wake.wait(client, 0.01)
    redis.flushall()
    assert not wake.wait(client, 0.01)
    wake.ring(redis)
    assert wake.wait(client, 30)
    client.close()
