"""Tell open pages and the scheduler what a request changed, after its commit. All of it is a hint and may be lost."""

from __future__ import annotations

from farm.queue import events, wake
from farm.queue.events import Event
from farm.web.services import Services


def job_changed(services: Services, owner_id: str, job_id: str, state: str) -> None:
    """A job was queued, cancelled or moved by its owner."""
    events.publish(
        services.redis, Event(topic="jobs", type="job", owner=owner_id, data={"id": job_id, "state": state})
    )
    wake.ring(services.redis)


def batch_changed(services: Services, owner_id: str, batch_id: str) -> None:
    """A batch was queued, cancelled or retried."""
    events.publish(
        services.redis, Event(topic="batches", type="batch", owner=owner_id, data={"id": batch_id})
    )
    wake.ring(services.redis)


def worker_changed(services: Services, worker_id: str, name: str, state: str) -> None:
    """A worker was asked to drain or to resume."""
    events.publish(
        services.redis,
        Event(topic="workers", type="worker", owner="", data={"id": worker_id, "name": name, "state": state}),
    )
    wake.ring(services.redis)


def queue_changed(services: Services) -> None:
    """Something was paused or resumed: everybody's jobs may start sooner or later."""
    events.publish(services.redis, Event(topic="jobs", type="queue", owner="", data={}))
    wake.ring(services.redis)
