"""Kinds of jobs, the stages each goes through, and what an extraction has beside a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import UNIQUE, StrEnum, verify
from typing import Any

from farm.jobs.states import Stage
from farm.lora.budget import Budget


@verify(UNIQUE)
class Kind(StrEnum):
    #: makes pictures
    RENDER = "render"
    #: makes one LoRA of several adapters
    EXTRACT = "extract"


#: stages in the order in which they begin
STAGES: Mapping[Kind, tuple[Stage, ...]] = {
    Kind.RENDER: (Stage.FETCHING, Stage.LOADING, Stage.PATCHING, Stage.SAMPLING, Stage.UPLOADING),
    Kind.EXTRACT: (Stage.FETCHING, Stage.EXTRACTING, Stage.UPLOADING),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What an extraction shall make; model and adapters stand in the job's spec, as tags."""

    #: of the adapter
    name: str
    rank: int | None = None
    energy: float | None = None
    max_rank: int | None = None

    @property
    def budget(self) -> Budget:
        return Budget(rank=self.rank, energy=self.energy, max_rank=self.max_rank)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
