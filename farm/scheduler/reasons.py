"""Why a job waits, in a sentence. The same numbers that decided are the ones told."""

from __future__ import annotations

from farm.jobs.pauses import sentence
from farm.jobs.pins import nobody
from farm.jobs.rates import duration
from farm.jobs.waiting import KEY_LIMITED, LIMITED, NOBODY, behind
from farm.scheduler.facts import Outlook
from farm.scheduler.group import Need
from farm.scheduler.narrow import Hindrance
from farm.scheduler.pauses import Pause

__all__ = ["duration", "where", "why_held", "why_waiting"]


def why_waiting(need: Need, outlook: Outlook) -> str:
    """One sentence for the queue page and the API."""
    held = why_held(need, outlook)
    return held or f"{behind(outlook.ahead, outlook.yours)}{where(need, outlook)}"


def why_held(need: Need, outlook: Outlook) -> str | None:
    """What keeps a job from every worker; None for one that only waits for its turn."""
    if outlook.hold == "nobody":
        return NOBODY
    if isinstance(outlook.hold, Hindrance):
        return outlook.hold.words
    if isinstance(outlook.hold, Pause):
        return sentence(outlook.hold.kind, outlook.hold.name or outlook.hold.subject)
    if outlook.hold == "limit":
        return LIMITED
    if outlook.hold == "key limit":
        return KEY_LIMITED
    if outlook.hold == "pin" or outlook.worker is None:
        return nobody(need.memory_bytes, need.tags)
    return None


def where(need: Need, outlook: Outlook, *, later: bool = False, slowness: float = 1.0) -> str:
    """The worker that is expected to take it, when that is free, and what it has. `later`: others come first there."""
    assert outlook.worker is not None
    name, busy = outlook.worker.name, outlook.worker.busy_seconds * slowness
    free = f"{name} is expected to take it" if later else f"{name} is free in about {duration(busy)}"
    return free + _holds(need, outlook)


def _holds(need: Need, outlook: Outlook) -> str:
    wanted = len(need.adapters)
    if outlook.model_hot and outlook.adapters_hot == wanted:
        return " and has everything hot"
    if outlook.model_hot:
        if not outlook.adapters_hot:
            return (
                " and has the model, not the adapter"
                if wanted == 1
                else " and has the model, not its adapters"
            )
        return f" and has the model and {outlook.adapters_hot} of {wanted} adapters"
    return "; the model has to be loaded there first"
