"""Whether the values of a spec are within bounds: every mistake as a `Problem` with its field, all at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from farm.errors import Problem
from farm.jobs.limits import Limits
from farm.jobs.pins import MAX_TAGS, TAG_HINT, is_tag
from farm.jobs.spec import JobSpec, storable
from farm.models.hires import MOST_STEPS, enlarged

#: the largest whole number that survives JSON in a browser
MAX_SEED = 2**53 - 1
MULTIPLE_OF = 8


def check(spec: JobSpec, limits: Limits, model_limits: Mapping[str, Any]) -> list[Problem]:
    """Problems of a spec whose defaults are filled in."""
    return [
        *_texts(spec, limits),
        *_size(spec, limits, model_limits),
        *_numbers(spec, limits, model_limits),
        *_video(spec, limits, model_limits),
        *_second_pass(spec, limits, model_limits),
        *_pins(spec),
        *check_own(spec, limits),
    ]


def check_own(spec: JobSpec, limits: Limits) -> list[Problem]:
    """Problems of what rows of a batch have of their own: seed, tags, webhook."""
    return [*_seed(spec, limits), *_labels(spec, limits), *_webhook(spec, limits)]


def _texts(spec: JobSpec, limits: Limits) -> Iterator[Problem]:
    for field in ("prompt", "negative_prompt"):
        text: str = getattr(spec, field)
        if len(text) > limits.max_prompt_chars:
            yield _bad(
                field, f"{len(text)} characters", f"at most {limits.max_prompt_chars} are allowed", "too_long"
            )
        elif not storable(text):
            yield _bad(
                field,
                "a character that is no text (NUL or half a surrogate pair)",
                "remove it",
                "bad_character",
            )


def _size(spec: JobSpec, limits: Limits, model_limits: Mapping[str, Any]) -> Iterator[Problem]:
    multiple = math.lcm(MULTIPLE_OF, int(model_limits.get("multiple_of", MULTIPLE_OF)))
    least = max(limits.min_side, int(model_limits.get("min_size", 0)))
    most = min(limits.max_side, int(model_limits.get("max_size", limits.max_side)))
    good = True
    for field in ("width", "height"):
        side = getattr(spec, field)
        if not least <= side <= most:
            good = False
            yield _bad(field, f"{side} pixels", f"give {least} to {most}", "out_of_bounds")
        elif side % multiple:
            good = False
            down = side - side % multiple
            near = down if down >= least else down + multiple
            yield _bad(
                field,
                f"{side} is no multiple of {multiple}",
                f"{near} or {near + multiple} is",
                "not_a_multiple",
            )
    assert spec.width is not None
    assert spec.height is not None
    most = min(limits.max_pixels, int(model_limits.get("max_pixels", limits.max_pixels)))
    if good and spec.width * spec.height > most:
        found = f"{spec.width} x {spec.height} are {spec.width * spec.height} pixels"
        yield _bad("width", found, f"at most {most} are allowed", "too_large")


def _numbers(spec: JobSpec, limits: Limits, model_limits: Mapping[str, Any]) -> Iterator[Problem]:
    assert spec.steps is not None
    assert spec.guidance_scale is not None
    most = min(limits.max_steps, int(model_limits.get("max_steps", limits.max_steps)))
    if not 1 <= spec.steps <= most:
        yield _bad("steps", f"{spec.steps} steps", f"give 1 to {most}", "out_of_bounds")
    if not 1 <= spec.count <= limits.max_count:
        yield _bad("count", f"{spec.count} pictures", f"give 1 to {limits.max_count}", "out_of_bounds")
    if not 0 <= spec.guidance_scale <= limits.max_guidance_scale:  # false for NaN, too
        found = f"{spec.guidance_scale:g}"
        yield _bad("guidance_scale", found, f"give 0 to {limits.max_guidance_scale:g}", "out_of_bounds")


def _video(spec: JobSpec, limits: Limits, model_limits: Mapping[str, Any]) -> Iterator[Problem]:
    step = int(model_limits.get("frame_step", 1))
    if spec.frames is not None and not 1 <= spec.frames <= limits.max_frames:
        yield _bad("frames", f"{spec.frames} frames", f"give 1 to {limits.max_frames}", "out_of_bounds")
    elif spec.frames is not None and (spec.frames - 1) % step:
        near = spec.frames - (spec.frames - 1) % step
        yield _bad(
            "frames", f"{spec.frames} frames", f"this model makes {near} or {near + step}", "not_a_multiple"
        )
    if spec.fps is not None and not 1 <= spec.fps <= limits.max_fps:
        yield _bad("fps", f"{spec.fps:g} frames a second", f"give 1 to {limits.max_fps:g}", "out_of_bounds")


def _second_pass(spec: JobSpec, limits: Limits, model_limits: Mapping[str, Any]) -> Iterator[Problem]:
    if spec.hr_scale is None:
        for field in ("hr_steps", "hr_strength"):
            if getattr(spec, field) is not None:
                yield _bad(
                    field, "there is no second pass", "give hr_scale as well, such as 2", "no_hr_scale"
                )
        return
    assert spec.hr_steps is not None
    assert spec.hr_strength is not None
    if not 1 < spec.hr_scale <= limits.max_hr_scale:  # false for NaN, too
        wanted = f"give more than 1, at most {limits.max_hr_scale:g}"
        yield _bad("hr_scale", f"{spec.hr_scale:g}", wanted, "out_of_bounds")
    else:
        yield from _larger(spec, limits, model_limits)
    if not 1 <= spec.hr_steps <= limits.max_steps:
        yield _bad("hr_steps", f"{spec.hr_steps} steps", f"give 1 to {limits.max_steps}", "out_of_bounds")
    elif not 0 < spec.hr_strength <= 1:
        wanted = "give more than 0, at most 1"
        yield _bad("hr_strength", f"{spec.hr_strength:g}", wanted, "out_of_bounds")
    elif spec.hr_steps / spec.hr_strength > MOST_STEPS:
        found = f"{spec.hr_steps} steps at {spec.hr_strength:g} need a schedule of more than {MOST_STEPS}"
        yield _bad("hr_strength", found, "give a higher strength or fewer hr_steps", "out_of_bounds")


def _larger(spec: JobSpec, limits: Limits, model_limits: Mapping[str, Any]) -> Iterator[Problem]:
    assert spec.hr_scale is not None
    multiple = int(model_limits.get("multiple_of", MULTIPLE_OF))
    width, height = (enlarged(side or 0, spec.hr_scale, multiple) for side in (spec.width, spec.height))
    if width * height > limits.max_pixels:
        found = f"{width} x {height} are {width * height} pixels"
        yield _bad("hr_scale", found, f"at most {limits.max_pixels} are allowed", "too_large")


def _pins(spec: JobSpec) -> Iterator[Problem]:
    if len(spec.worker_tags) > MAX_TAGS:
        yield _bad(
            "worker_tags", f"{len(spec.worker_tags)} tags", f"at most {MAX_TAGS} are allowed", "too_many"
        )
    for index, tag in enumerate(spec.worker_tags):
        if not is_tag(tag):
            yield _bad(f"worker_tags/{index}", f"{tag[:40]!r} is no tag of a worker", TAG_HINT, "bad_tag")


def _seed(spec: JobSpec, limits: Limits) -> Iterator[Problem]:
    if spec.seed is not None and spec.seed != -1 and not 0 <= spec.seed <= MAX_SEED - limits.max_count:
        wanted = f"give 0 to {MAX_SEED - limits.max_count}, or -1 for a random one"
        yield _bad("seed", str(spec.seed), wanted, "out_of_bounds")


def _labels(spec: JobSpec, limits: Limits) -> Iterator[Problem]:
    if len(spec.tags) > limits.max_labels:
        yield _bad("tags", f"{len(spec.tags)} words", f"at most {limits.max_labels} are allowed", "too_many")
    for index, label in enumerate(spec.tags):
        if not 0 < len(label) <= limits.max_label_chars or not storable(label):
            wanted = f"give 1 to {limits.max_label_chars} characters"
            yield _bad(f"tags/{index}", f"a word of {len(label)} characters", wanted, "bad_value")


def _webhook(spec: JobSpec, limits: Limits) -> Iterator[Problem]:
    if spec.webhook is None:
        return
    if len(spec.webhook) > limits.max_webhook_chars:
        wanted = f"at most {limits.max_webhook_chars} are allowed"
        yield _bad("webhook", f"{len(spec.webhook)} characters", wanted, "too_long")
        return
    try:
        parts = urlsplit(spec.webhook)
        good = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.username is None
        good = good and storable(spec.webhook) and not any(ord(sign) <= 32 for sign in spec.webhook)
    except ValueError:
        good = False
    if not good:
        yield _bad(
            "webhook", "this is no https:// address", "such as https://example.org/farm", "bad_address"
        )


def _bad(field: str, found: str, wanted: str, code: str) -> Problem:
    return Problem(
        code=code, message=f"{field.split('/', maxsplit=1)[0]}: {found}", hint=wanted, pointer=f"/{field}"
    )
