"""Whether a model can do what a job asks: videos, second passes and further guidance are not for every family."""

from __future__ import annotations

from collections.abc import Iterator

from farm.errors import Problem
from farm.jobs.models import ModelRow
from farm.jobs.spec import JobSpec
from farm.models.guidance import further_scales
from farm.models.hires import second_pass_exists


def suits(spec: JobSpec, model: ModelRow) -> Iterator[Problem]:
    """Problems of a spec that asks for what this kind of model does not do."""
    makes_videos = "frames" in model.defaults
    for name in ("frames", "fps"):
        if getattr(spec, name) is not None and not makes_videos:
            yield Problem(
                code="no_video",
                message=f"{name}: {model.name} makes pictures, not videos",
                hint=f"leave {name} out, or choose a model that makes videos",
                pointer=f"/{name}",
            )
    known = further_scales(model.family, model.configs)
    for name in ("guidance_scale_2", "true_cfg_scale"):
        if getattr(spec, name) is not None and name not in known:
            yield Problem(
                code="no_such_guidance",
                message=f"{name}: {model.name} does not read it",
                hint=f"leave {name} out; this model goes by {' and '.join(('guidance_scale', *known))}",
                pointer=f"/{name}",
            )
    if spec.hr_scale is not None and not second_pass_exists(model.configs):
        yield Problem(
            code="no_second_pass",
            message=f"hr_scale: {model.name} cannot make a second pass",
            hint=f"leave hr_scale out; models with a UNet can, this one is {model.family}",
            pointer="/hr_scale",
        )
