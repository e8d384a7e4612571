"""Logging of every process: one line per event, its fields as `key=value` or as JSON."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

#: Libraries that tell more than anybody wants to know.
_QUIET = (
    "boto3",
    "botocore",
    "s3transfer",
    "urllib3",
    "celery",
    "kombu",
    "amqp",
    "httpx",
    "httpcore",
    "PIL",
    "diffusers",
)


def configure_logging(level: str, json: bool = False) -> None:
    """Send events of at least `level` to standard error, as lines for people or as JSON; libraries from WARNING on."""
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    # tracebacks show no local variables anywhere: prompts and keys are among them
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if json:
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderers: list[Any] = [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(),
        ]
    else:
        # repr keeps control characters of what people typed from reaching a terminal
        renderers = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """Every event inside, in this thread, carries these fields: a job's id, its attempt, the worker."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield
