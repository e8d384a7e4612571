"""A Redis client that gives up soon: Redis only carries hints, and nobody may wait long for a hint."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry


def connect(url: str, *, timeout: float = 5.0, connect_timeout: float = 2.0) -> Redis:
    """A client for `url` that answers in bytes; nothing is sent before the first command.

    A connection that broke while idle is made anew once; a blocking read must be shorter than `timeout`.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
    )


def answers(url: str) -> bool:
    """Whether a Redis at `url` answers at this moment."""
    with connect(url, timeout=2.0) as redis:
        try:
            return bool(redis.ping())
        except (RedisError, OSError):
            return False
