"""Logging: one line per event, fields of the job on each, control characters harmless."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from farm.logs import bound, configure_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines_carry_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    log = structlog.get_logger("test")
    with bound(job_id="job_1", attempt=2, worker="w"):
        log.info("adapter_ready", cache="miss", bytes=10)
        log.debug("secret_prompt")
    log.info("after")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"event", "job_id", "attempt", "worker", "cache", "bytes", "level", "timestamp"} == set(first)
    assert "job_id" not in second


def test_plain_lines_keep_control_characters_off_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG")
    structlog.get_logger("test").info("event", name="\x1b[2Jinc\nforged line")
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b[2J" not in line


def test_libraries_are_heard_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", json=True)
    logging.getLogger("botocore.auth").info("signature")
    logging.getLogger("celery.worker").warning("connection lost")
    logging.getLogger("farm.other").info("told")
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["connection lost", "told"]


@pytest.mark.parametrize("as_json", [True, False])
def test_tracebacks_show_no_local_variables(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    configure_logging("INFO", json=as_json)

    def fail(prompt: str) -> None:
        raise ValueError("no")

    try:
        fail("a-very-" + "private-prompt")
    except ValueError:
        structlog.get_logger("test").exception("job_failed")
        logging.getLogger("farm.other").exception("failed too")
    told = capsys.readouterr().err
    assert "ValueError" in told
    assert "a-very-private-prompt" not in told
