"""Strength of each adapter, per region and step: what the tag language hands to the engine (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farm.lora.layout import Region


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSchedule:
    """One adapter's strengths over a run. A region that is absent has strength 0 throughout."""

    #: content of the file; the key under which the engine finds the loaded adapter
    sha256: str
    #: per region one strength for each step, so `len == steps`
    strengths: Mapping[Region, tuple[float, ...]]
    #: use only the first n ranks (`dyn`); None for all
    max_rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthPlan:
    """Strengths of all adapters of a job. Steps count from 1, as people do."""

    steps: int
    adapters: tuple[AdapterSchedule, ...] = ()

    def at(self, region: Region, step: int) -> tuple[float, ...]:
        """Strength of each adapter on `region` while step `step` (1 … steps) is denoised."""
        return tuple(a.strengths[region][step - 1] if region in a.strengths else 0.0 for a in self.adapters)

    def changes(self, component: str, step: int) -> bool:
        """Whether anything in `component` differs between `step - 1` and `step` (always at step 1)."""
        return step == 1 or any(
            curve[step - 2] != curve[step - 1]
            for adapter in self.adapters
            for region, curve in adapter.strengths.items()
            if region.component == component
        )
