"""Progress: the latest word about each job, from a thread of its own."""

from __future__ import annotations

import threading

from PIL import Image

from farm.clock import SystemClock
from farm.queue.events import Event
from farm.worker.held import Hands
from farm.worker.progress import Progress

PICTURE = Image.new("RGB", (1, 1))


class Slow:
    """A Redis that answers when it is let."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.previews: list[str] = []
        self.go = threading.Event()
        self.entered = threading.Event()

    def tell(self, event: Event) -> None:
        self.entered.set()
        assert self.go.wait(60)
        self.events.append(event)

    def show(self, job_id: str, webp: bytes) -> None:
        self.previews.append(job_id)


def test_a_slow_redis_gets_the_latest_word_and_no_backlog() -> None:
    redis = Slow()
    progress = Progress("w", redis.tell, redis.show, lambda picture: b"webp")
    progress.start()
    held = Hands(SystemClock()).take("job_1", 1)
    progress.job(held)
    assert redis.entered.wait(60)
    for step in range(1, 50):
        held.step = step
        progress.job(held, seconds_per_step=0.1)
    progress.job(held, "succeeded")
    redis.go.set()
    progress.close(60)
    assert [(event.data["state"], event.data["step"]) for event in redis.events] == [
        ("running", 0),
        ("succeeded", 49),
    ]


def test_previews_are_counted_and_end_with_the_job() -> None:
    redis = Slow()
    redis.go.set()
    progress = Progress("w", redis.tell, redis.show, lambda picture: b"webp")
    held = Hands(SystemClock()).take("job_1", 1)
    held.owner_id = "user_1"
    progress.job(held)
    progress.preview(held, PICTURE)
    progress.worker("worker_1", "up")
    progress.start()
    progress.close(60)
    assert redis.previews == ["job_1"]
    assert [(event.topic, event.owner, event.data.get("preview")) for event in redis.events] == [
        ("jobs", "user_1", 1),
        ("workers", "", None),
    ]


def test_a_preview_that_cannot_be_encoded_does_not_end_the_telling() -> None:
    redis = Slow()
    redis.go.set()

    def encode(picture: Image.Image) -> bytes:
        raise OSError("no encoder")

    progress = Progress("w", redis.tell, redis.show, encode)
    held = Hands(SystemClock()).take("job_1", 1)
    progress.start()
    progress.job(held)
    progress.preview(held, PICTURE)
    held.step = 1
    progress.job(held, "succeeded")
    progress.close(60)
    assert redis.events[-1].data["state"] == "succeeded"
