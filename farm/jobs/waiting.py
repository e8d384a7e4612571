"""Where each waiting job stands, when it will start and why it waits: one answer for pages, API and command line.

What the leader sees, its forecast tells. A job beyond its sight stands behind those of its owner that were asked for before
it, and behind as many of each other user as fair sharing lets pass meanwhile: those are counted by an index and by tallies.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from farm.db.models import Job
from farm.jobs import forecast as forecasts
from farm.jobs.forecast import Forecast
from farm.jobs.guesses import LEAST_SECONDS, bar_of
from farm.jobs.line import before
from farm.jobs.pauses import pause_views, why_paused
from farm.jobs.rates import duration
from farm.jobs.states import State
from farm.jobs.tallies import OpenTally, open_jobs

NOBODY = "no worker is up; start one with `farm worker`"
LIMITED = "as many jobs of yours are on workers as one user may have at once"
KEY_LIMITED = "as many jobs of its API key are on workers as that key may have at once"
UNSEEN = "no scheduler has looked at the queue yet; `farm scheduler` starts one"
#: bars beyond the leader's sight are no narrower than this
WIDE = (0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What people are told of a waiting job."""

    #: jobs that are expected to start before it
    position: int
    because: str
    #: None: nobody knows, because something has to happen first
    start: datetime | None = None
    low: datetime | None = None
    high: datetime | None = None


def tell(
    session: Session, jobs: Collection[Job], viewer_id: str, forecast: Forecast | None = None
) -> dict[str, Told]:
    """What to tell of those of `jobs` that wait, by id. `forecast`: the latest, by whom has read it already."""
    waits = [job for job in jobs if job.state == State.QUEUED]
    if not waits:
        return {}
    forecast = forecast or forecasts.read(session)
    seen = {start.job_id: place for place, start in enumerate(forecast.starts)} if forecast else {}
    unseen = [job for job in waits if job.id not in seen]
    tallies = open_jobs(session, State.QUEUED) if unseen else []
    front = Front(forecast or Forecast(at=waits[0].created_at), tallies)
    places = before(session, unseen, front.counts)
    pauses = pause_views(session)
    return {
        job.id: front.tell(
            job,
            viewer_id,
            known=forecast is not None,
            paused=why_paused(pauses, job.model_id, job.owner_id),
            place=seen.get(job.id),
            own=places.get(job.id, 0),
        )
        for job in waits
    }


class Front:
    """The forecast with what waits beyond it. Pure."""

    def __init__(self, forecast: Forecast, tallies: Sequence[OpenTally]):
        self._forecast = forecast
        #: waiting jobs by (owner, priority)
        self.counts = {(row.owner_id, row.priority): row.n for row in tallies}
        #: by owner, in the order in which its own jobs are taken: (priority, id) and the place of each
        self._own: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        self._yours: list[int] = []
        #: jobs that wait beyond sight, by owner and priority
        self._beyond: dict[str, dict[int, int]] = defaultdict(dict)
        for place, start in enumerate(forecast.starts):
            self._yours.append(len(self._own[start.owner_id]))
            self._own[start.owner_id].append((start.priority, start.job_id, place))
        for own in self._own.values():
            own.sort()
        for (owner, priority), count in self.counts.items():
            listed = sum(item[0] == priority for item in self._own.get(owner, ()))
            self._beyond[owner][priority] = max(0, count - listed)

    def tell(
        self, job: Job, viewer_id: str, *, known: bool, paused: str | None, place: int | None, own: int
    ) -> Told:
        """`place`: in the forecast; `own`: of an unseen job, how many of its owner's stand before it."""
        forecast = self._forecast
        position, yours, seconds = self._seen(place) if place is not None else self._unseen(job, own)
        put_off = job.not_before is not None and job.not_before > forecast.now
        said = yours if job.owner_id == viewer_id else 0
        if not known:
            return Told(position=position, because=UNSEEN)
        if paused:
            return Told(position=position, because=paused)
        if forecast.stale:
            words = f"no scheduler has looked at the queue for {duration(forecast.age)}; `farm scheduler` starts one"
            return Told(position=position, because=words)
        if not forecast.workers:
            return Told(position=position, because=forecast.nobody or NOBODY)
        if put_off:
            return self._put_off(job, position, seconds)
        if job.owner_id in forecast.limited and place is None:
            seconds = max(seconds, forecast.limited[job.owner_id] * (own + 1))
            return self._between(position, LIMITED, seconds, wide=True)
        if job.id in forecast.held:
            return Told(position=position, because=forecast.held[job.id])
        if place is not None:
            because = behind(position, said) + forecast.starts[place].where
            return self._between(position, because, seconds)
        pace = f"about {_rate(forecast.pace)}" if forecast.pace else "the scheduler has not seen it yet"
        return self._between(position, behind(position, said, about=True) + pace, seconds, wide=True)

    def _seen(self, place: int) -> tuple[int, int, float]:
        return place, self._yours[place], self._forecast.starts[place].seconds

    def _unseen(self, job: Job, own: int) -> tuple[int, int, float]:
        """(jobs before it, of these its owner's, seconds): counted on from the last of its owner's jobs in sight that is
        taken before it, or from where its class begins."""
        starts = self._forecast.starts
        mine = self._own.get(job.owner_id, [])
        listed = bisect_left(mine, (job.priority, job.id, -1))
        if listed:
            place = max(item[2] for item in mine[:listed]) + 1
        else:
            place = sum(start.priority < job.priority for start in starts)
        rest = max(0, own - listed)
        others = sum(
            sum(count for priority, count in counts.items() if priority < job.priority)
            + min(counts.get(job.priority, 0), self._turns(owner, job.owner_id, rest))
            for owner, counts in self._beyond.items()
            if owner != job.owner_id
        )
        position = place + rest + others
        seconds = starts[place - 1].seconds if 0 < place <= len(starts) else self._forecast.free_in
        return position, own, seconds + (position - place + 1) * self._forecast.pace

    def _turns(self, owner: str, mine: str, rest: int) -> int:
        """Jobs of `owner` that start while `rest` jobs of `mine` do; in a round of turns each has a fixed place."""
        weights = self._forecast.weights
        share = weights.get(owner, 1.0) / max(1e-3, weights.get(mine, 1.0))
        return round((rest + (owner < mine)) * share)

    def _put_off(self, job: Job, position: int, seconds: float) -> Told:
        assert job.not_before is not None
        pause = (job.not_before - self._forecast.now).total_seconds()
        words = f"tried again in about {duration(pause)}, after a passing error"
        if job.wait_reason:
            words += f": {job.wait_reason}"
        from_then = (job.not_before - self._forecast.at).total_seconds()
        told = self._between(position, words, max(from_then, seconds), wide=True)
        return Told(position=position, because=words, start=told.start, low=job.not_before, high=told.high)

    def _between(self, position: int, because: str, seconds: float, *, wide: bool = False) -> Told:
        bar = bar_of(self._forecast.bars, seconds)
        low = min(bar.low, WIDE[0]) if wide else bar.low
        high = max(bar.high, WIDE[1]) if wide else bar.high
        # the shortest waits vary by more than a multiple of themselves
        length = max(LEAST_SECONDS, seconds)
        start, first, last = (
            self._forecast.at + timedelta(seconds=by)
            for by in (seconds, min(seconds, length * low), length * high)
        )
        return Told(position=position, because=because, start=start, low=first, high=last)


def behind(ahead: int, yours: int, *, about: bool = False) -> str:
    """
    >>> behind(1, 0), behind(14, 14), behind(5, 2), behind(0, 0)
    ('behind 1 job; ', 'behind 14 jobs of yours; ', 'behind 5 jobs, 2 of them yours; ', '')
    >>> behind(123456, 4321, about=True)
    'behind about 120,000 jobs, 4,300 of them yours; '
    """
    if not ahead:
        return ""
    jobs = "job" if ahead == 1 else "jobs"
    number = _about(ahead) if about else f"{ahead:,}"
    if yours == ahead:
        return f"behind {number} {jobs} of yours; "
    of_them = _about(yours, word="") if about else f"{yours:,}"
    return f"behind {number} {jobs}" + (f", {of_them} of them yours; " if yours else "; ")


def _about(count: int, word: str = "about ") -> str:
    """Two digits of a count are enough for an estimate."""
    if count < 100:
        return f"{count}"
    unit = 10 ** (len(str(count)) - 2)
    return f"{word}{round(count / unit) * unit:,}"


def _rate(pace: float) -> str:
    """
    >>> _rate(0.5), _rate(20), _rate(900)
    ('120 start a minute', '3 start a minute', '4 start an hour')
    """
    a_minute = 60 / pace
    return (
        f"{a_minute:.0f} start a minute"
        if a_minute >= 1.5
        else f"{max(1, round(60 * a_minute))} start an hour"
    )


def fields(told: Told | None) -> Mapping[str, Any]:
    """As the API names them."""
    return {
        "position": told.position if told else None,
        "estimated_start": told.start if told else None,
        "estimated_low": told.low if told else None,
        "estimated_high": told.high if told else None,
        "waiting_because": told.because if told else None,
    }
