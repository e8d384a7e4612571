"""Why a job waits, in a sentence. The same numbers that decided are the ones told."""

from __future__ import annotations

from farm.scheduler.plan import Outlook, WaitingJob


def why_waiting(job: WaitingJob, outlook: Outlook) -> str:
    """One sentence for the queue page and the API."""
    if outlook.worker is None:
        return "no worker is up; start one with `farm worker`"
    holds = _holds(job, outlook)
    when = f"{outlook.worker.name} is free in about {duration(outlook.worker.busy_seconds)}"
    if outlook.ahead > 0:
        plural = "" if outlook.ahead == 1 else "s"
        return f"behind {outlook.ahead} job{plural}; {when}{holds}"
    return f"{when}{holds}"


def _holds(job: WaitingJob, outlook: Outlook) -> str:
    wanted = len(job.need.adapters)
    if outlook.model_hot and outlook.adapters_hot == wanted:
        return " and has everything hot"
    if outlook.model_hot:
        return f" and has the model and {outlook.adapters_hot} of {wanted} adapters"
    return "; the model has to be loaded there first"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.4), duration(20.4), duration(100), duration(7300)
    ('1 s', '20 s', '1 min 40 s', '2 h 1 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 5 else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min"
