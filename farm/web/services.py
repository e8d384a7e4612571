"""What the views of one web process work with, made once by `farm.web.app` and never changed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast

from flask import current_app
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from farm.clock import Clock
from farm.jobs.limits import Limits
from farm.store.s3 import Store
from farm.web.throttle import Slots, Throttle


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Connections and values of this process; views reach it through `services()`."""

    engine: Engine
    sessions: sessionmaker[Session]
    store: Store
    #: for short commands: gives up after two seconds
    redis: Redis
    #: for reads that block: event streams
    stream_redis: Redis
    limits: Limits
    clock: Clock
    data_dir: Path
    #: scheme and host under which browsers reach the store, for the Content-Security-Policy
    store_origin: str
    allowed_hosts: frozenset[str]
    max_upload_bytes: int
    #: wrong keys by address
    failures: Throttle
    #: open event streams
    streams: Slots
    #: set when the process is asked to stop, so that event streams end
    stopping: threading.Event = field(default_factory=threading.Event)

    def now(self) -> datetime:
        return self.clock.now()


def services() -> Services:
    """The services of the application that handles this request."""
    return cast(Services, current_app.extensions["farm"])
