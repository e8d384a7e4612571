"""A bell for schedulers: `ring` after a submission, and every waiting scheduler looks into SQL at once.

It is a stream of one entry, not a list: a list would give each ring to one of several waiting schedulers, and that may
be the one that does not lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from weakref import WeakKeyDictionary

import structlog
from redis import Redis
from redis.exceptions import RedisError

from farm.clock import Clock, SystemClock

log = structlog.get_logger(__name__)

BELL = "farm:wake"
#: Shorter than a client's patience with a silent server.
_LONGEST_BLOCK_SECONDS = 2.0

#: The last ring that each client has heard, so that one between two waits is not missed.
_heard: WeakKeyDictionary[Redis, str] = WeakKeyDictionary()


def ring(redis: Redis) -> bool:
    """Wake the schedulers; False when Redis is away. A ring that is lost costs one pause between rounds."""
    try:
        redis.xadd(BELL, {"": ""}, maxlen=1, approximate=False)
    except (RedisError, OSError) as error:
        log.info("ring_lost", error=str(error))
        return False
    return True


def wait(redis: Redis, seconds: float, clock: Clock | None = None) -> bool:
    """Wait for a ring, at most `seconds`; True when it rang since this client's last wait."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + seconds
    try:
        heard = _heard.get(redis) or _last_ring(redis)
        _heard[redis] = heard
        while (left := deadline - clock.monotonic()) > 0:
            # 0 would mean: for ever
            block = max(1, int(1000 * min(left, _LONGEST_BLOCK_SECONDS)))
            if redis.xread({BELL: heard}, block=block):
                _heard[redis] = _last_ring(redis)
                return True
    except (RedisError, OSError) as error:
        log.info("bell_unheard", error=str(error))
        clock.sleep(max(0.0, deadline - clock.monotonic()))
    return False


def _last_ring(redis: Redis) -> str:
    rows = cast(Any, redis.xrevrange(BELL, count=1))
    assert not isinstance(rows, Mapping)
    return rows[0][0].decode() if rows else "0-0"
