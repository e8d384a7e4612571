"""What an operator has stopped: everything, one model, or one user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["queue", "model", "user"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    kind: Kind
    #: model key or user id; empty for the queue
    subject: str = ""
    #: the model's or user's name, for people
    name: str = ""


def paused_by(pauses: Iterable[Pause], model_key: str, owner_id: str) -> Pause | None:
    """The first pause that holds a job of this model and owner."""
    subjects = {"queue": "", "model": model_key, "user": owner_id}
    return next((pause for pause in pauses if pause.subject == subjects[pause.kind]), None)
