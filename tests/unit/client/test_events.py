"""Reading the event stream across broken connections."""

from __future__ import annotations

import httpx
import pytest

from farm.client.events import follow
from farm.errors import NotFound, Transient

from .test_http import client


def _stream(text: str) -> httpx.Response:
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


def test_a_broken_stream_goes_on_after_the_last_id():
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        if len(asked) == 1:
            return _stream(
                'retry: 2000\n\nid: 5-0\nevent: hello\ndata: {}\n\nid: 6-0\nevent: job\ndata: {"id": "a"}\n\n'
            )
        if len(asked) == 2:
            raise httpx.ReadError("reset")
        return _stream('id: 7-0\nevent: job\ndata: {"id": "b"}\n\nevent: end\ndata: {}\n\n')

    assert [event.data["id"] for event in follow(client(answer), job_id="job_1")] == ["a", "b"]
    assert asked == [None, "6-0", "6-0"]


def test_a_wrong_job_is_told_at_once():
    with pytest.raises(NotFound):
        list(follow(client(lambda request: httpx.Response(404, json={"detail": "no"})), job_id="job_1"))


def test_it_gives_up_after_so_many_breaks():
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Transient, match="the event stream broke"):
        list(follow(client(answer), breaks=2))
