"""Settings in, `Services` out: the connections of one web process and the user of a single-user farm."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError

from farm.clock import SystemClock
from farm.db.engine import make_engine, make_sessions
from farm.jobs import users
from farm.jobs.limits import Limits
from farm.queue.redis import connect
from farm.settings import Settings
from farm.store.s3 import open_store
from farm.web import security
from farm.web.services import Services
from farm.web.throttle import Slots, Throttle

WRONG_KEYS_PER_MINUTE = 20
STREAMS_PER_USER = 12


def build_services(settings: Settings) -> Services:
    """Everything that views work with. Nothing is connected to before its first use, but for the database."""
    clock = SystemClock()
    engine = make_engine(settings.resolved_database_url(), pool_size=10, max_overflow=22)
    sessions = make_sessions(engine)
    url = settings.redis_url.get_secret_value()
    services = Services(
        engine=engine,
        sessions=sessions,
        store=open_store(settings),
        redis=connect(url, timeout=2, connect_timeout=1),
        stream_redis=connect(url, timeout=10, connect_timeout=1),
        limits=Limits.from_settings(settings),
        clock=clock,
        data_dir=settings.data_dir,
        store_origin=security.origin_of(settings.s3_public_endpoint or settings.s3_endpoint),
        allowed_hosts=security.allowed_hosts(settings.allowed_hosts, settings.host),
        max_upload_bytes=settings.max_upload_bytes,
        failures=Throttle(limit=WRONG_KEYS_PER_MINUTE, window_seconds=60, monotonic=clock.monotonic),
        streams=Slots(total=max(1, settings.web_threads * 3 // 4), each=STREAMS_PER_USER),
    )
    ensure_user(services)
    return services


def ensure_user(services: Services) -> None:
    """Make the one user of a farm that has none yet, and keep the key where the command line finds it."""
    services.data_dir.mkdir(parents=True, exist_ok=True)
    try:
        with services.sessions.begin() as db:
            _, plain = users.ensure_single_user(db, services.now())
    except IntegrityError:
        return  # another process was first
    if plain is not None:
        security.write_secret(services.data_dir / "api-key", plain, replace=True)
