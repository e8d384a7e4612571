"""Servers of their own for fleets that are hurt on purpose: Redis, PostgreSQL, S3 behind a proxy, and a tiny model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from farm.db.engine import make_engine, make_sessions, migrate
from farm.embedded.servers import SeaweedServer, ValkeyServer
from tests.chaos.fleet import Fleet
from tests.support.databases import PostgresServer
from tests.support.proxy import Proxy
from tests.support.tiny import tiny_sd15
from tests.support.worker import make_rig


@dataclass
class Services:
    """What all faults are done around; each leaves them as they were."""

    redis: ValkeyServer
    postgres: PostgresServer
    seaweed: SeaweedServer
    store: Proxy
    model: Path
    folder: Path


@contextmanager
def running_services() -> Iterator[Services]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farm-recovery-")))
        redis, seaweed, postgres = (
            ValkeyServer(folder / "redis"),
            SeaweedServer(folder / "s3"),
            PostgresServer(),
        )
        for server in (redis, seaweed, postgres):
            stack.callback(server.stop)
            server.start()
        postgres.make_template(migrate)
        store = seaweed.open()
        store.ensure_bucket()
        store.close()
        address = urlsplit(seaweed.endpoint)
        proxy = stack.enter_context(Proxy(address.hostname or "", address.port or 0))
        yield Services(redis, postgres, seaweed, proxy, tiny_sd15(folder / "model"), folder)


@contextmanager
def fleet_of(services: Services, timers: dict[str, Any]) -> Iterator[Fleet]:
    """No process yet; on a database and a cache of its own."""
    url = services.postgres.fresh()
    folder = Path(tempfile.mkdtemp(dir=services.folder))
    engine, store = make_engine(url), services.seaweed.open()
    for item in store.list_objects("results/"):
        store.delete(item.key)
    s3 = {
        "endpoint": f"http://127.0.0.1:{services.store.port}", "access_key": services.seaweed.access_key,
        "secret_key": services.seaweed.secret_key, "bucket": services.seaweed.bucket,
    }  # fmt: skip
    rig = make_rig(
        folder, make_sessions(engine), url, services.redis.url, store, s3, services.model, folder / "cache"
    )
    rig.settings = rig.settings.model_copy(update={"redis_url": SecretStr(services.redis.url)})
    fleet = Fleet(rig, timers=timers)
    try:
        yield fleet
    finally:
        services.store.set("pass")
        fleet.close()
        engine.dispose()
        store.close()
        services.postgres.drop(url)
