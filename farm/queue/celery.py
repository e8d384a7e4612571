"""The Celery application: it carries ids to one queue per worker, as JSON, and keeps no results.

Redis may lose, double or delay any message. The visibility timeout is longer than any job, so Celery itself does not
double them; who sends again is the scheduler, from SQL.
"""

from __future__ import annotations

from celery import Celery

TASK = "farm.render"
PREFIX = "farm:"
VISIBILITY_SECONDS = 24 * 3600


def make_app(redis_url: str) -> Celery:
    """An application on this broker; nothing is connected to before its first use."""
    app = Celery("farm", broker=redis_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        task_send_sent_event=False,
        task_default_queue="unrouted",
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_detect_quorum_queues=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        # for ever: a Redis that is away for a night is no reason to leave
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "global_keyprefix": PREFIX,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 30,
            "retry_on_timeout": True,
            # of a publisher: one more try at once; the consumer has its own, without end
            "max_retries": 1,
            "interval_start": 0,
        },
        enable_utc=True,
        timezone="UTC",
    )
    return app


def queue_name(worker_id: str) -> str:
    """The queue that only this worker reads.

    >>> queue_name("worker_01J")
    'worker.worker_01J'
    """
    return f"worker.{worker_id}"
