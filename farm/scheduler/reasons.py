"""Why a job waits, in a sentence. The same numbers that decided are the ones told."""

from __future__ import annotations

from farm.jobs.pins import nobody
from farm.jobs.rates import duration
from farm.scheduler.group import Need
from farm.scheduler.pauses import Pause
from farm.scheduler.plan import Outlook

__all__ = ["duration", "why_waiting"]


def why_waiting(need: Need, outlook: Outlook) -> str:
    """One sentence for the queue page and the API."""
    if outlook.hold == "nobody":
        return "no worker is up; start one with `farm worker`"
    if isinstance(outlook.hold, Pause):
        return _paused(outlook.hold)
    if outlook.hold == "limit":
        return "as many jobs of yours are on workers as one user may have at once"
    if outlook.hold == "key limit":
        return "as many jobs of its API key are on workers as that key may have at once"
    if outlook.hold == "pin" or outlook.worker is None:
        return nobody(need.memory_bytes, need.tags)
    holds = _holds(need, outlook)
    when = f"{outlook.worker.name} is free in about {duration(outlook.worker.busy_seconds)}"
    if not outlook.ahead:
        return f"{when}{holds}"
    return f"{_behind(outlook.ahead, outlook.yours)}; {when}{holds}"


def _behind(ahead: int, yours: int) -> str:
    """
    >>> _behind(1, 0), _behind(14, 14), _behind(5, 2)
    ('behind 1 job', 'behind 14 jobs of yours', 'behind 5 jobs, 2 of them yours')
    """
    jobs = "job" if ahead == 1 else "jobs"
    if yours == ahead:
        return f"behind {ahead} {jobs} of yours"
    return f"behind {ahead} {jobs}" + (f", {yours} of them yours" if yours else "")


def _paused(pause: Pause) -> str:
    if pause.kind == "queue":
        return "the queue is paused by an operator"
    if pause.kind == "model":
        return f"an operator has paused jobs with the model {pause.name or pause.subject}"
    return "an operator has paused this user's jobs"


def _holds(need: Need, outlook: Outlook) -> str:
    wanted = len(need.adapters)
    if outlook.model_hot and outlook.adapters_hot == wanted:
        return " and has everything hot"
    if outlook.model_hot:
        return f" and has the model and {outlook.adapters_hot} of {wanted} adapters"
    return "; the model has to be loaded there first"
