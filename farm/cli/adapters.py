"""Adapter files named on the command line, read for one model, with what is to be told of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.jobs.ingest import file_sha256
from farm.lora.formats.provenance import Source
from farm.lora.layout import Layout
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import Adapter, load


@dataclass(frozen=True, slots=True)
class Given:
    """An adapter with the strength that it was given."""

    path: Path
    strength: float
    adapter: Adapter

    @property
    def source(self) -> Source:
        assert self.adapter.sha256 is not None
        return Source(name=self.path.name, sha256=self.adapter.sha256, strength=f"{self.strength:g}")

    def row(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "file": str(self.path),
            "sha256": self.adapter.sha256,
            "strength": self.strength,
            "layers": len(self.adapter.deltas),
            "warnings": list(self.adapter.warnings),
        }


def read_adapters(wanted: Sequence[tuple[Path, float]], layout: Layout) -> list[Given]:
    """Each file for models of `layout`. Raises BadRequest when one is damaged or does not fit."""
    return [
        Given(path, strength, load(path, layout, sha256=file_sha256(path), name=path.stem))
        for path, strength in wanted
    ]


def plan_of(given: Sequence[Given], layout: Layout) -> StrengthPlan:
    """Each adapter at its strength everywhere; a file that is given twice counts twice."""
    regions = layout.regions()
    return StrengthPlan(
        steps=1,
        adapters=tuple(
            AdapterSchedule(sha256=each.source.sha256, strengths=dict.fromkeys(regions, (each.strength,)))
            for each in given
        ),
    )


def base_name(model: Path) -> str:
    return model.name if model.is_dir() else model.stem
