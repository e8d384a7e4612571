"""A spec, checked against limits, model and adapters and filled in: everything that is found out before a row is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from farm.jobs.limits import Limits
from farm.jobs.spec import JobSpec
from farm.lora.schedule import StrengthPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An adapter that a job uses, pinned by content."""

    name: str
    sha256: str
    size: int
    file_name: str
    type: str
    base_model: str
    adapter_id: str
    #: of a tag that names no strength
    default_strength: float

    def as_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A spec with every default filled in, and all that was found out about it. Nothing is written yet."""

    spec: JobSpec
    #: the prompt without tags, with trigger words: what is encoded
    clean_prompt: str
    networks: tuple[Network, ...]
    plan: StrengthPlan
    #: for the person: partly fitting adapters, tags without effect
    warnings: tuple[str, ...]
    model_id: str
    model_name: str
    model_key: str
    model_bytes: int
    network_set: str
    batch_key: str


def prepare(
    session: Session, owner_id: str, spec: JobSpec | Mapping[str, Any], *, limits: Limits
) -> Prepared:
    """Check `spec` and fill in what it leaves open; nothing is written.

    Raises:
        BadRequest: every problem that was found, each with its JSON pointer.
    """
    raise NotImplementedError


def explain(session: Session, prepared: Prepared) -> dict[str, Any]:
    """Strength per adapter, component, block and step: the object of `farm loras explain --json`."""
    raise NotImplementedError
