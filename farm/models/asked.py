"""Checks what a job asks of a loaded model, before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping

from farm.errors import BadRequest
from farm.lora.schedule import StrengthPlan
from farm.models.load import LoadedModel
from farm.models.samplers import check_fits
from farm.models.state import SampleSpec
from farm.models.strengths import AdapterLike


def check_asked(
    model: LoadedModel,
    spec: SampleSpec,
    plan: StrengthPlan,
    adapters: Mapping[str, AdapterLike],
    *,
    frame_step: int,
) -> None:
    """Check size, sampler and frames. `frame_step`: frames are one more than a multiple of it; 0 for pictures.

    Raises:
        BadRequest: size, sampler or frames do not suit the model.
        ValueError: plan and spec are not of one job.
    """
    limits = model.info.limits
    multiple = limits["multiple_of"]
    for name, value in (("width", spec.width), ("height", spec.height)):
        if value % multiple or value < limits["min_size"]:
            raise BadRequest(
                f"{name} {value} does not suit {model.info.name}",
                f"a multiple of {multiple}, at least {limits['min_size']}",
                code="bad_size",
            )
    check_fits(spec.sampler, model.family)
    if spec.frames < 1 or (spec.frames - 1) % frame_step if frame_step else spec.frames != 1:
        hint = (
            f"a multiple of {frame_step} and one more, such as {20 * frame_step + 1}"
            if frame_step
            else "it makes pictures: 1"
        )
        raise BadRequest(f"{spec.frames} frames do not suit {model.info.name}", hint, code="bad_frames")
    if plan.steps != spec.steps or spec.steps < 1 or not spec.seeds:
        raise ValueError(f"{spec.steps} steps with a plan of {plan.steps} and {len(spec.seeds)} seeds")
    missing = [schedule.sha256[:12] for schedule in plan.adapters if schedule.sha256 not in adapters]
    if missing:
        raise ValueError(f"adapter {missing[0]} is planned but not loaded")
