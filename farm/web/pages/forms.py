"""From a form of the Create page to the fields of a job, and from mistakes to the fields they belong beside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from farm.errors import BadRequest, Problem
from farm.jobs.pins import memory_text
from farm.jobs.spec import from_text

#: fields of a job that the form has
FIELDS = (
    "prompt",
    "negative_prompt",
    "model",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "sampler",
    "seed",
    "count",
    "priority",
    "frames",
    "fps",
    "hr_scale",
    "hr_steps",
    "hr_strength",
    "worker_tags",
    "min_memory",
)
BLANK: Mapping[str, str] = {**dict.fromkeys(FIELDS, ""), "count": "1", "priority": "normal"}


def spec_of(form: Mapping[str, str]) -> dict[str, Any]:
    """The job that a form asks for; empty fields are left to the model's defaults.

    >>> spec_of({"prompt": "a fox", "steps": "20", "seed": "", "csrf_token": "x"})
    {'prompt': 'a fox', 'steps': 20}
    """
    given = {name: form[name] for name in FIELDS if form.get(name, "").strip() or name == "prompt"}
    return {"prompt": "", **from_text(given)}


def form_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the form for a job's spec.

    >>> form = form_of({"prompt": "a fox", "steps": 20, "worker_tags": ["a100"], "min_memory": 24 * 10**9})
    >>> form["steps"], form["worker_tags"], form["min_memory"], form["seed"]
    ('20', 'a100', '24GB', '')
    """
    return {name: _text(name, spec.get(name)) for name in FIELDS}


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "worker_tags":
        return " ".join(value)
    return memory_text(value) if name == "min_memory" and isinstance(value, int) else f"{value}"


def by_field(problems: Iterable[Problem]) -> defaultdict[str, list[Problem]]:
    """Mistakes by the field that they stand beside; what belongs to none stands at the prompt."""
    found: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        name = problem.pointer.strip("/").split("/")[0]
        found[name if name in FIELDS else "prompt"].append(problem)
    return found


def problems_of(error: BadRequest) -> tuple[Problem, ...]:
    return error.problems or (Problem(code=error.code, message=error.message, hint=error.hint),)
