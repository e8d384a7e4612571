"""How many jobs a user, and an API key of theirs, may have on workers at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Full = Literal["limit", "key limit"]


class Quota:
    """Counts what is given during one round against the limits of users and keys.

    `running`: jobs on workers by user id and by key id; `limits`: of users and keys that have their own, 0 for none; for
    other users `limit` counts, 0 for none.

    >>> quota = Quota({"ann": 1}, {"key_1": 1}, 2)
    >>> quota.full("ann", "key_1"), quota.full("bob")
    (None, None)
    >>> quota.take("ann", "key_1"); quota.full("ann", "key_1"), quota.full("ann")
    ('limit', 'limit')
    """

    def __init__(self, running: Mapping[str, int], limits: Mapping[str, int], limit: int):
        self._running = dict(running)
        self._limits = limits
        self._limit = limit

    def full(self, owner: str, key: str = "") -> Full | None:
        """Which limit holds another job of this user, sent with this key if that has a limit; None: neither."""
        if self._reached(owner, self._limits.get(owner, self._limit)):
            return "limit"
        if key and self._reached(key, self._limits.get(key, 0)):
            return "key limit"
        return None

    def take(self, owner: str, key: str = "") -> None:
        """Count one more job."""
        for who in (owner, key) if key else (owner,):
            self._running[who] = self._running.get(who, 0) + 1

    def _reached(self, who: str, limit: int) -> bool:
        return bool(limit) and self._running.get(who, 0) >= limit
