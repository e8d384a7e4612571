"""Signals: the first SIGTERM drains, the second quits; a broken device or a hung step ends the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from farm.clock import SystemClock
from farm.settings import Settings
from farm.worker import main
from farm.worker.held import Hands


class Quit(BaseException):
    def __init__(self, code: int):
        self.code = code


class FakeWorker:
    """A worker whose draining is up to the test."""

    on_start: Callable[[FakeWorker], None]
    finishes = True

    def __init__(self, *_: Any) -> None:
        self.hands = Hands(SystemClock())
        self.stopped = 0

    def start(self) -> None:
        type(self).on_start(self)

    def stop(self) -> bool:
        self.stopped += 1
        return self.finishes


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeWorker]]:
    def quit(code: int) -> None:
        raise Quit(code)

    class Fake(FakeWorker):
        pass

    monkeypatch.setattr(main, "Worker", Fake)
    monkeypatch.setattr(main, "configure_logging", lambda level: None)
    monkeypatch.setattr(main.os, "_exit", quit)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield Fake
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: int) -> Callable[[FakeWorker], None]:
    def on_start(worker: FakeWorker) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return on_start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_drains(fake: type[FakeWorker], number: int) -> None:
    fake.on_start = send(number)
    main.run(Settings())


def test_a_second_signal_quits_at_once(fake: type[FakeWorker]) -> None:
    fake.on_start = send(signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(Quit) as told:
        main.run(Settings())
    assert told.value.code == 130


def test_what_hangs_does_not_keep_the_process(fake: type[FakeWorker]) -> None:
    fake.on_start, fake.finishes = send(signal.SIGTERM), False
    with pytest.raises(Quit) as told:
        main.run(Settings())
    assert told.value.code == 0


def test_a_broken_device_ends_the_process_as_failed(fake: type[FakeWorker]) -> None:
    fake.on_start = lambda worker: worker.hands.broken.set()
    with pytest.raises(SystemExit) as told:
        main.run(Settings())
    assert told.value.code == 1
