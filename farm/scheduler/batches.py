"""Batches on workers as the plan sees them: a job that can join the one that runs takes no place in the worker's window.

Jobs of one model and batch key are sampled together there, up to the number that the worker measured to be worth it. So
the batch counts as one job of the window, whoever is in it. What waits there for the device closes it: nobody passes that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: model and batch key of jobs that may share forward passes
RideKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rider:
    """A job that a worker has."""

    key: RideKey
    pictures: int
    #: its worker died with it before: it runs alone
    lost_before: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What runs on a worker, and how many more jobs like it may join."""

    #: None: nothing runs
    key: RideKey | None = None
    seats: int = 0
    #: jobs of the window that are in it
    aboard: int = 0


def batch_of(given: Sequence[Rider], sizes: Mapping[str, int]) -> Batch:
    """The batch of a worker that has these jobs, oldest first; `sizes`: pictures worth a pass, by batch key.

    >>> one = Rider(key=("m", "k"), pictures=1)
    >>> batch_of([one, one], {"k": 4})
    Batch(key=('m', 'k'), seats=2, aboard=2)
    >>> batch_of([one, one], {})
    Batch(key=('m', 'k'), seats=0, aboard=1)
    """
    if not given:
        return Batch()
    key, size = given[0].key, sizes.get(given[0].key[1], 1)
    pictures = aboard = 0
    for job in given:
        if aboard and (job.key != key or job.lost_before or pictures + job.pictures > size):
            break
        pictures += job.pictures
        aboard += 1
    alone = any(job.lost_before for job in given)
    seats = 0 if alone or aboard < len(given) else max(0, size - pictures) // -(-pictures // aboard)
    return Batch(key=key, seats=seats, aboard=aboard)


class Boarding:
    """A worker's batch during planning: moved on by what was given to it."""

    __slots__ = ("_key", "_sizes", "seats")

    def __init__(self, batch: Batch, sizes: Mapping[str, int]) -> None:
        self._key = batch.key
        self._sizes = sizes
        self.seats = batch.seats

    def has_seat(self, key: RideKey) -> bool:
        return self.seats > 0 and key == self._key

    def give(self, key: RideKey) -> bool:
        """Count a job that was given to the worker; whether it took a seat, and no place in the window."""
        if self.has_seat(key):
            self.seats -= 1
            return True
        first = self._key is None
        self.seats = self._sizes.get(key[1], 1) - 1 if first else 0
        if first:
            self._key = key
        return False

    def close(self) -> None:
        self.seats = 0
