"""Live progress for open pages, sent by a thread of its own: a Redis that hangs must not slow a single step.

Only the latest word about each job is kept until it is sent, so a slow Redis means fewer events, never a backlog.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from PIL import Image

from farm.queue.events import Event
from farm.worker.held import HeldJob

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Word:
    owner_id: str
    data: dict[str, Any] = field(default_factory=dict)


class Progress:
    """Collects what is to be told, and tells it."""

    def __init__(
        self,
        worker_name: str,
        tell: Callable[[Event], object],
        show_preview: Callable[[str, bytes], object],
        encode: Callable[[Image.Image], bytes],
    ):
        self._worker = worker_name
        self._tell = tell
        self._show_preview = show_preview
        self._encode = encode
        self._something = threading.Condition()
        self._words: dict[str, _Word] = {}
        #: the last word about each job that runs
        self._latest: dict[str, _Word] = {}
        self._pictures: dict[str, Image.Image] = {}
        #: previews shown so far, by running job
        self._shown: dict[str, int] = {}
        self._events: list[Event] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 2.0) -> None:
        """Send what is left, for at most this long."""
        with self._something:
            self._closing = True
            self._something.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def job(self, held: HeldJob, state: str = "running", **more: Any) -> None:
        """Where a job stands now."""
        data = {
            "id": held.id,
            "state": state,
            "stage": str(held.stage) if state == "running" else None,
            "step": held.step,
            "steps": held.steps,
            "worker": self._worker,
            **more,
        }
        with self._something:
            self._words[held.id] = self._latest[held.id] = _Word(held.owner_id, data)
            data["preview"] = self._shown.get(held.id, 0)
            if state != "running":
                self._pictures.pop(held.id, None)
                self._shown.pop(held.id, None)
                del self._latest[held.id]
            self._something.notify()

    def preview(self, held: HeldJob, picture: Image.Image) -> None:
        """How a job's first picture looks now."""
        with self._something:
            self._pictures[held.id] = picture
            self._something.notify()

    def worker(self, worker_id: str, state: str) -> None:
        """The worker's own state, for everybody."""
        with self._something:
            data = {"id": worker_id, "name": self._worker, "state": state}
            self._events.append(Event(topic="workers", type="worker", owner="", data=data))
            self._something.notify()

    def _run(self) -> None:
        while True:
            with self._something:
                self._something.wait_for(
                    lambda: self._words or self._pictures or self._events or self._closing
                )
                words, self._words = self._words, {}
                pictures, self._pictures = self._pictures, {}
                events, self._events = self._events, []
                if self._closing and not (words or pictures or events):
                    return
            try:
                self._send(words, pictures, events)
            except Exception:
                # a picture that cannot be encoded is no reason to fall silent
                log.warning("progress_not_sent", exc_info=True)

    def _send(self, words: dict[str, _Word], pictures: dict[str, Image.Image], events: list[Event]) -> None:
        for job_id, picture in pictures.items():
            self._show_preview(job_id, self._encode(picture))
            with self._something:
                # a job that has ended meanwhile has no use for it
                if (latest := self._latest.get(job_id)) is None:
                    continue
                self._shown[job_id] = number = self._shown.get(job_id, 0) + 1
                words.setdefault(job_id, latest)
                latest.data["preview"] = words[job_id].data["preview"] = number
        for word in words.values():
            self._tell(Event(topic="jobs", type="job", owner=word.owner_id, data=dict(word.data)))
        for event in events:
            self._tell(event)
