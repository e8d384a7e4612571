"""A function runs by turns with its caller, and ends when nobody waits for it any more."""

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from farm.models.turns import Give, Turns


def standing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "counting"]


def counting(ended: Callable[[], Any], stop_at: int = 99) -> Turns:
    def work(give: Give) -> str:
        try:
            for number in range(stop_at):
                give(number)
        finally:
            ended()
        return "done"

    return Turns(work, "counting")


def test_it_gives_then_returns() -> None:
    turns = counting(lambda: None, stop_at=2)
    assert (turns.resume(), turns.resume(), turns.ended) == (0, 1, False)
    assert (turns.resume(), turns.ended) == ("done", True)
    with pytest.raises(ValueError, match="counting has ended"):
        turns.resume()


def test_what_it_raises_ends_it() -> None:
    def work(give: Give) -> None:
        give(1)
        raise KeyError("lost")

    turns = Turns(work, "counting")
    assert turns.resume() == 1
    with pytest.raises(KeyError, match="lost"):
        turns.resume()
    assert turns.ended


def test_dropped_ones_end_orderly_and_leave_no_thread() -> None:
    ended = threading.Semaphore(0)
    for _ in range(50):
        turns = counting(ended.release)
        assert (turns.resume(), turns.resume()) == (0, 1)
        del turns
    counting(ended.release)  # never begun
    gc.collect()
    for _ in range(50):
        assert ended.acquire(timeout=60)
    for thread in standing():
        thread.join(20)
    assert standing() == []
