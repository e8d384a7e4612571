"""Bake adapters into a diffusers folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farm.errors import BadRequest
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.lora.formats.match import check, match
from farm.lora.merge import merge
from farm.lora.tensors import load as load_adapter
from farm.models.load import load as load_model


def merge_folder(model: Path, wanted: Sequence[tuple[Path, float]], out: Path) -> dict[str, Any]:
    """Write to `out` a copy of the diffusers folder `model` with the adapters baked in.

    Raises:
        BadRequest: `out` exists, the model is no diffusers folder, or an adapter does not fit it.
    """
    if out.exists():
        raise BadRequest(f"{out} exists already", "name a folder that does not", code="exists")
    if not model.is_dir():
        raise BadRequest(
            f"{model} is no diffusers folder", "give the folder that holds model_index.json", code="no_folder"
        )
    loaded = load_model(model, device="cpu", dtype="keep")
    rows, adapters = [], []
    for file, strength in wanted:
        header = read_header(file)
        matched = match(header.tensors, header.metadata, loaded.layout)
        warnings = check(inspect(header, file.name), matched, loaded.layout, file.stem)
        adapters.append((load_adapter(file, loaded.layout), strength))
        rows.append(
            {
                "file": str(file),
                "strength": strength,
                "layers": len(matched.layers),
                "warnings": list(warnings),
            }
        )
    changed = merge(loaded.modules, loaded.layout, adapters)
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(model, temporary)
    for component in changed:
        shutil.rmtree(temporary / component)
        loaded.modules[component].save_pretrained(temporary / component)
    temporary.rename(out)
    return {"model": str(model), "out": str(out), "components": sorted(changed), "adapters": rows}
