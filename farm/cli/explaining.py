"""Explain a prompt: by a running farm, or on this machine from a model's folder and adapter files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farm.cli.context import client, find_farm
from farm.demo import catalog
from farm.errors import BadRequest, Problem
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.models.families import describe, layout
from farm.prompt.explain import ExplainedAdapter, explain, generic_layout


def explain_prompt(
    prompt: str, model: str, steps: int, files: Sequence[Path], *, prompt_only: bool, hires: bool = False
) -> Mapping[str, Any]:
    """The `explain --json` object of `prompt`; with `hires`, of a second pass of `steps` steps.

    A model that is a folder, or the built-in one while no farm runs, is explained here; else the farm is asked.

    Raises:
        BadRequest: a tag is wrong, the model or an adapter is not known.
    """
    if prompt_only:
        return explain(prompt, generic_layout(), steps, adapters=None, model=None, hires=hires)
    if files or Path(model).exists() or not _farm_is_known():
        return _explain_here(prompt, model, steps, files, hires=hires)
    asked = {"prompt": prompt, "model": model, "steps": steps}
    # the strengths are the same for every scale
    answer = client().post("/jobs:validate", asked | ({"hr_scale": 2, "hr_strength": 1.0} if hires else {}))
    if not answer["valid"]:
        raise BadRequest.of(tuple(_problem(row) for row in answer["errors"]))
    explained: Mapping[str, Any] = answer["explain"]
    return explained["second_pass"] if hires else explained


def _explain_here(
    prompt: str, model: str, steps: int, files: Sequence[Path], *, hires: bool
) -> Mapping[str, Any]:
    known = {file.stem.casefold(): _adapter(file.stem, file) for file in files}
    if Path(model).exists():
        folder = Path(model)
    elif model == catalog.MODEL_NAME:
        folder = catalog.MODEL_DIR
        for adapter in catalog.ADAPTERS:
            known.setdefault(adapter.name.casefold(), _adapter(adapter.name, adapter.path))
    else:
        raise BadRequest(
            f"model {model!r} is no folder and no farm runs",
            f"start the farm, give a diffusers folder, or use --model {catalog.MODEL_NAME}",
            code="unknown_model",
        )
    described = describe(folder)
    shape = layout(described.family, described.configs)
    return explain(prompt, shape, steps, adapters=known, model=model, hires=hires)


def _adapter(name: str, file: Path) -> ExplainedAdapter:
    header = read_header(file)
    return ExplainedAdapter.of(name, file.name, inspect(header, file.name), header.tensors)


def _farm_is_known() -> bool:
    try:
        find_farm()
    except BadRequest:
        return False
    return True


def _problem(row: Mapping[str, Any]) -> Problem:
    fields = ("code", "message", "hint", "pointer", "tag", "item", "column")
    return Problem(**{name: row[name] for name in fields if name in row})
