"""A round's outlooks as the forecast that pages read: the front in the order of starts, what is held back, and the pace."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice

from farm.jobs.forecast import Forecast, Start
from farm.jobs.guesses import Bar
from farm.scheduler.facts import Outlook, Snapshot
from farm.scheduler.group import Group
from farm.scheduler.lanes import WorkerView
from farm.scheduler.reasons import where, why_held

#: workers whose rates stand for all
RATED = 16


def foresight(
    snapshot: Snapshot, outlooks: Sequence[Outlook], now: datetime, *, bars: tuple[Bar, ...], slowness: float
) -> Forecast:
    """`slowness`: by how much longer jobs take than the rates say that the plan goes by."""
    groups = {head.id: group for group in snapshot.groups for head in group.heads}
    coming = sorted((item for item in outlooks if item.worker), key=lambda item: (item.seconds, item.ahead))
    held, limited = {}, set()
    for item in outlooks:
        key = groups[item.job_id].key
        if reason := why_held(key.need, item):
            held[item.job_id] = reason
            if item.hold == "limit":
                limited.add(key.owner_id)
    starts, taken = [], set()
    for item in coming:
        assert item.worker is not None
        key = groups[item.job_id].key
        words = where(key.need, item, later=item.worker.id in taken, slowness=slowness)
        taken.add(item.worker.id)
        starts.append(
            Start(
                job_id=item.job_id,
                owner_id=key.owner_id,
                priority=key.priority,
                seconds=item.seconds * slowness,
                where=words,
            )
        )
    work = _work(snapshot)
    workers = len(snapshot.workers)
    return Forecast(
        at=now,
        starts=tuple(starts),
        held=held,
        limited={
            owner: slowness
            * work.get(owner, 0.0)
            / max(1, snapshot.limits.get(owner, snapshot.running_limit))
            for owner in sorted(limited)
        },
        weights={owner: weight for owner, weight in snapshot.weights.items() if weight != 1.0},
        workers=workers,
        nobody=snapshot.nobody.words if snapshot.nobody else "",
        free_in=slowness * min((view.busy_seconds for view in snapshot.workers), default=0.0),
        pace=_pace(starts, slowness * sum(work.values()) / max(1, len(work)), workers),
        bars=bars,
    )


def _work(snapshot: Snapshot) -> dict[str, float]:
    """Mean device seconds of a waiting job, by owner."""
    rated = list(islice(snapshot.workers, RATED))
    sums: dict[str, tuple[float, int]] = {}
    if not rated:
        return {}
    for group in snapshot.groups:
        seconds, jobs = sums.get(group.key.owner_id, (0.0, 0))
        heads = len(group.heads)
        sums[group.key.owner_id] = (seconds + heads * _seconds(group, rated), jobs + heads)
    return {owner: seconds / max(1, jobs) for owner, (seconds, jobs) in sums.items()}


def _seconds(group: Group, rated: Sequence[WorkerView]) -> float:
    rates = [view.rates.step_seconds(group.key.batch_key) for view in rated]
    return group.steps * sum(rates) / len(rates)


def _pace(starts: Sequence[Start], work: float, workers: int) -> float:
    """Seconds between two starts: as foreseen where the front is long enough to tell, else by the mean job."""
    if len(starts) > 2 * workers > 0:
        return (starts[-1].seconds - starts[0].seconds) / (len(starts) - 1)
    return work / max(1, workers)
