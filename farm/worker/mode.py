"""Whether a job's adapters are written into the weights or act beside them: the cheaper way, from what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from farm.errors import BadRequest
from farm.lora.schedule import StrengthPlan

#: `diffusers`: by its own loader, which a setting may force; it is never chosen here
Mode = Literal["patch", "branch", "diffusers"]
#: what the setting `lora_mode` may say
Wish = Literal["auto", "patch", "branch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was measured on this device, for this model; None where nothing was yet."""

    #: seconds to write one layer's weight anew
    layer: float | None = None
    #: seconds that a step takes longer with branches than without
    branch: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job asks of either way."""

    steps: int
    #: steps at whose beginning strengths of the denoiser change, the first included
    changes: int
    #: layers that such a change touches
    layers: int
    #: why the adapters cannot act beside the layers; "" when they can
    no_branch: str = ""
    #: why the weights cannot be written; "" when they can
    no_patch: str = ""


def choose(wish: Wish, work: Work, costs: Costs) -> Mode:
    """The way for a job.

    What was never measured is tried where it is likely to win: branches in a job whose strengths change at every second
    step at least.

    Raises BadRequest when the way that is wished for, or that is left, cannot do it.
    """
    if work.no_branch and (work.no_patch or wish == "branch"):
        raise BadRequest(
            work.no_branch if not work.no_patch else f"{work.no_branch}; {work.no_patch}",
            "leave the adapter out, or set FARM_LORA_MODE to auto",
            code="no_side_branch",
        )
    if work.no_patch and wish == "patch":
        raise BadRequest(work.no_patch, "set FARM_LORA_MODE to auto or branch", code="quantised")
    if wish != "auto":
        return wish
    if work.no_branch or not work.layers:
        return "patch"
    if work.no_patch:
        return "branch"
    if costs.layer is None or costs.branch is None:
        return "branch" if costs.layer is not None and 2 * work.changes > work.steps else "patch"
    return "branch" if costs.branch * work.steps < costs.layer * work.layers * work.changes else "patch"


def changes_of(plan: StrengthPlan, denoisers: tuple[str, ...]) -> int:
    """Steps of `plan` at whose beginning the strengths of a denoiser change, the first included."""
    return sum(any(plan.changes(name, step) for name in denoisers) for step in range(1, plan.steps + 1))
