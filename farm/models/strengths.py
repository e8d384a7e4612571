"""What the step machine needs of plan, adapters and patcher: equal weights are recognised, weights are asked for."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Protocol, cast

from farm.lora.branch import Sample
from farm.lora.schedule import StrengthPlan


class AdapterLike(Protocol):
    """A loaded adapter, as far as it matters here."""

    @property
    def deltas(self) -> Mapping[str, Any]:
        """Changes by the name of the layer: `component.path`."""


class PatcherLike(Protocol):
    """Whoever puts strengths into the weights of a model, or beside them."""

    @property
    def mixes(self) -> bool:
        """Whether it can give each row of a pass strengths of its own; see `Mixing`."""

    def apply(
        self,
        plan: StrengthPlan,
        adapters: Mapping[str, Any],
        step: int,
        components: Collection[str] | None = None,
    ) -> Any:
        """Make the weights of `components` those that `plan` asks for while `step` is denoised."""


class Mixing(PatcherLike, Protocol):
    """A patcher that can do so now."""

    def assign(self, samples: Sequence[Sample], components: Collection[str] | None = None) -> Any:
        """Make the rows of the next pass act as their own plans want; see `farm.lora.branch`."""


def mixing(patcher: PatcherLike) -> Mixing | None:
    """Return the patcher as one that mixes, if it does."""
    return cast(Mixing, patcher) if patcher.mixes else None


def weights_key(
    plan: StrengthPlan, adapters: Mapping[str, AdapterLike], step: int, components: Collection[str]
) -> Hashable:
    """Return a key that is equal wherever the weights of `components` are equal.

    An adapter that has no layer in a component does not count there, so a curve that only the denoiser feels does
    not make the text be encoded again.
    """
    parts = []
    for schedule in plan.adapters:
        touched = [name for name in components if touches(adapters.get(schedule.sha256), name)]
        strengths = {
            region: curve[step - 1]
            for region, curve in schedule.strengths.items()
            if region.component in touched and curve[step - 1] != 0.0
        }
        if strengths:
            parts.append((schedule.sha256, schedule.max_rank or 0, tuple(sorted(strengths.items()))))
    return tuple(sorted(parts))


def touches(adapter: AdapterLike | None, component: str) -> bool:
    """Whether the adapter changes a layer of the component; one that is not loaded is taken to."""
    if adapter is None:
        return True
    return any(name.startswith(f"{component}.") for name in adapter.deltas)
