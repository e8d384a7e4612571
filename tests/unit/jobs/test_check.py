"""What a model has no room for is told at submission, with what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from farm.jobs.check import check
from farm.jobs.limits import Limits
from farm.jobs.spec import JobSpec

GOOD: dict[str, Any] = {"prompt": "a fox", "width": 512, "height": 512, "steps": 4, "guidance_scale": 4.0}


@pytest.mark.parametrize(
    ("asked", "model_limits", "told"),
    [
        ({}, {"max_pixels": 512 * 512, "frame_step": 4}, None),
        ({"width": 528}, {"max_pixels": 512 * 512}, "width: 528 x 512 are 270336 pixels: at most 262144 are allowed"),
        ({"width": 1024}, {"max_size": 768}, "width: 1024 pixels: give 64 to 768"),
        ({"frames": 81}, {"frame_step": 4}, None),
        ({"frames": 80}, {"frame_step": 4}, "frames: 80 frames: this model makes 77 or 81"),
        ({"steps": 60}, {"max_steps": 50}, "steps: 60 steps: give 1 to 50"),
    ],
)  # fmt: skip
def test_the_limits_of_a_model_count(
    asked: dict[str, Any], model_limits: dict[str, int], told: str | None
) -> None:
    problems = check(JobSpec(**{**GOOD, **asked}), Limits(), model_limits)
    assert [problem.sentence() for problem in problems] == ([told] if told else [])
