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
    model: LoadedModel, spec: SampleSpec, plan: StrengthPlan, adapters: Mapping[str, AdapterLike]
) -> None:
    """Check size and sampler, and that spec, plan and adapters are of one job.

    Raises:
        BadRequest: size or sampler do not suit the model.
        ValueError: plan or adapters are another job's.
    """
    limits = model.info.limits
    multiple, most = limits["multiple_of"], limits.get("max_size")
    for name, value in (("width", spec.width), ("height", spec.height)):
        if value % multiple or value < limits["min_size"] or (most and value > most):
            bound = f", at most {most}" if most else ""
            raise BadRequest(
                f"{name} {value} does not suit {model.info.name}",
                f"a multiple of {multiple}, at least {limits['min_size']}{bound}",
                code="bad_size",
            )
    room = limits.get("max_pixels", spec.width * spec.height)
    if spec.width * spec.height > room:
        raise BadRequest(
            f"{spec.width}×{spec.height} is too large for {model.info.name}",
            f"at most {room} pixels",
            code="bad_size",
        )
    check_fits(spec.sampler, model.family)
    if plan.steps != spec.steps or spec.steps < 1 or not spec.seeds:
        raise ValueError(f"{spec.steps} steps with a plan of {plan.steps} and {len(spec.seeds)} seeds")
    missing = [schedule.sha256[:12] for schedule in plan.adapters if schedule.sha256 not in adapters]
    if missing:
        raise ValueError(f"adapter {missing[0]} is planned but not loaded")


def frames_asked(model: LoadedModel, spec: SampleSpec) -> int:
    """Return how many frames the job makes; 1 for a picture.

    Raises:
        BadRequest: the model cannot make this number of frames.
    """
    every = model.info.limits.get("frame_step")
    frames = spec.frames or int(model.info.defaults.get("frames", 1))
    if frames != 1 and (every is None or (frames - 1) % every):
        hint = (
            f"a multiple of {every} and one more, such as {20 * every + 1}"
            if every
            else "it makes pictures: 1"
        )
        raise BadRequest(f"{frames} frames do not suit {model.info.name}", hint, code="bad_frames")
    return frames
