"""A patcher for tests that need none, and plans by hand."""

from collections.abc import Collection, Mapping
from typing import Any

from farm.lora.layout import Layout
from farm.lora.schedule import AdapterSchedule, StrengthPlan


class NoPatcher:
    """Leaves the weights as they are and remembers what was asked of it: (step, components)."""

    mixes = False

    def __init__(self) -> None:
        self.asked: list[tuple[int, tuple[str, ...]]] = []

    def apply(
        self,
        plan: StrengthPlan,
        adapters: Mapping[str, Any],
        step: int,
        components: Collection[str] | None = None,
    ) -> None:
        self.asked.append((step, tuple(components or ())))


def make_plan(layout: Layout, steps: int, **curves: tuple[float, ...] | float) -> StrengthPlan:
    """Return a plan of adapters by sha256, each with one curve for all regions."""
    return StrengthPlan(
        steps=steps,
        adapters=tuple(
            AdapterSchedule(
                sha256=sha256,
                strengths={
                    region: curve if isinstance(curve, tuple) else (curve,) * steps
                    for region in layout.regions()
                },
            )
            for sha256, curve in curves.items()
        ),
    )
