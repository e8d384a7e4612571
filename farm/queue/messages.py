"""The one message: which attempt of which job. The truth stands in SQL; a stale message is harmless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from farm.queue.celery import TASK, queue_name

log = structlog.get_logger(__name__)

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderMessage:
    job: str
    attempt: int
    v: int = VERSION


def send_render(app: Celery, worker_id: str, message: RenderMessage) -> bool:
    """Put the message on the worker's queue; False, and a line in the log, when Redis is away.

    The worker also looks into SQL for its jobs, so a message that is not sent costs seconds, not the job.
    """
    try:
        app.send_task(
            TASK,
            kwargs=asdict(message),
            queue=queue_name(worker_id),
            task_id=f"{message.job}:{message.attempt}",
            retry=False,
            ignore_result=True,
        )
    except (OperationalError, OSError) as error:
        log.warning("message_not_sent", job_id=message.job, attempt=message.attempt, error=str(error))
        return False
    return True


def parse_render(body: Mapping[str, Any]) -> RenderMessage | None:
    """The message in a task's arguments; None when it is not one that this code understands.

    >>> parse_render({"v": 1, "job": "job_1", "attempt": 2})
    RenderMessage(job='job_1', attempt=2, v=1)
    >>> parse_render({"v": 9, "job": "job_1", "attempt": 2})
    """
    job, attempt = body.get("job"), body.get("attempt")
    if body.get("v") != VERSION or not isinstance(job, str) or type(attempt) is not int:
        return None
    return RenderMessage(job=job, attempt=attempt)
