"""Bake adapters into a model: diffusers folder in, folder out; checkpoint file in, file out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from farm.cli.adapters import Given, base_name, read_adapters
from farm.errors import BadRequest
from farm.lora.files import write_file
from farm.lora.formats.provenance import Made, of_checkpoint
from farm.models.baking import baked_file
from farm.models.stored import StoredModel, open_stored


def merge_model(
    model: Path, wanted: Sequence[tuple[Path, float]], out: Path, now: datetime
) -> dict[str, Any]:
    """Write to `out` a copy of `model` with the adapters baked in. Dtypes, names and all other tensors stay.

    Raises:
        BadRequest: `out` exists, the model cannot be used, or an adapter does not fit it.
    """
    if out.exists():
        raise BadRequest(f"{out} exists already", "name something that does not", code="exists")
    stored = open_stored(model)
    given = read_adapters(wanted, stored.layout)
    made = Made(
        title=base_name(out),
        family=stored.family,
        date=now,
        base=base_name(model),
        sources=[each.source for each in given],
    )
    write = _write_folder if stored.format == "diffusers" else _write_checkpoint
    components = write(stored, given, out, of_checkpoint(made))
    return {
        "model": str(model),
        "out": str(out),
        "components": components,
        "adapters": [each.row() for each in given],
    }


def _write_checkpoint(
    stored: StoredModel, given: Sequence[Given], out: Path, metadata: dict[str, str]
) -> list[str]:
    if out.suffix != ".safetensors":
        raise BadRequest(
            f"{out} does not end in .safetensors", "a checkpoint file becomes a file", code="bad_name"
        )
    (name,) = stored.files
    tensors, changed = baked_file(stored, name, _strengths(given))
    write_file(out, tensors, dict(stored.files[name].header.metadata) | metadata)
    return sorted({layer.component for layer in changed})


def _write_folder(
    stored: StoredModel, given: Sequence[Given], out: Path, metadata: dict[str, str]
) -> list[str]:
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    components: set[str] = set()
    try:
        shutil.copytree(stored.path, part)
        for name, file in stored.files.items():
            tensors, changed = baked_file(stored, name, _strengths(given))
            if changed:
                (part / name).unlink()
                write_file(part / name, tensors, dict(file.header.metadata) | metadata)
                components |= {layer.component for layer in changed}
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(components)


def _strengths(given: Sequence[Given]) -> list[tuple[Any, float]]:
    return [(each.adapter, each.strength) for each in given]
