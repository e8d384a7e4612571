"""The second, larger pass over a finished picture ("Hires. fix"), as plain numbers: what it takes, how large it becomes.

Where it comes from: AUTOMATIC1111's option of that name. There too "Hires steps" are steps that are really taken; the
schedule is made for `steps / strength` steps, of which the last `steps` are run. (diffusers' img2img pipelines are given
the length of the schedule and take `strength` of it.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: timesteps that a model of noise was trained with: no schedule is longer
MOST_STEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hires:
    """A second pass."""

    #: size of the picture, as a multiple of the first one's; above 1
    scale: float
    #: steps that are taken
    steps: int
    #: how much noise is put on the enlarged picture: above 0, at most 1
    strength: float


def second_pass_exists(configs: Mapping[str, Any]) -> bool:
    """Whether a model with these configs can be sampled twice: those with a UNet can."""
    return "unet" in configs


def enlarged(side: int, scale: float, multiple: int) -> int:
    """A side in the second pass: pixels, cut to a multiple of what the model can do.

    >>> enlarged(512, 1.5, 8), enlarged(520, 1.3, 8)
    (768, 672)
    """
    # a hair more, so that 520 times 1.3 is not cut for the sake of a rounding
    return int(side * scale + 1e-6) // multiple * multiple


def schedule_steps(steps: int, strength: float) -> int:
    """Length of the schedule of whose steps the last `steps` are taken.

    >>> schedule_steps(10, 0.5), schedule_steps(4, 0.3), schedule_steps(7, 1.0)
    (20, 13, 7)
    """
    return int(steps / strength + 1e-6)
