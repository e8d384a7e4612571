"""Bake adapters into a diffusers folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from farm.errors import BadRequest
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.lora.formats.match import check, match
from farm.lora.layout import Layer
from farm.lora.merge import merge
from farm.lora.patcher import layer_module
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
    loaded = load_model(model, device="cpu", dtype="float32")
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
    merge(loaded.modules, loaded.layout, adapters)
    names = {name for adapter, _ in adapters for name in adapter.deltas}
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(model, temporary)
    changed = [loaded.layout.layers[name] for name in sorted(names)]
    for component in {layer.component for layer in changed}:
        layers = [layer for layer in changed if layer.component == component]
        rewrite(temporary / component, loaded.modules[component], layers)
    temporary.rename(out)
    components = sorted({layer.component for layer in changed})
    return {"model": str(model), "out": str(out), "components": components, "adapters": rows}


def rewrite(folder: Path, module: nn.Module, layers: Sequence[Layer]) -> None:
    """Replace the tensors of `layers` in a component's files; all others, names, dtypes and metadata stay as they are."""
    wanted: dict[str, Tensor] = {}
    for layer in layers:
        for word in ("weight", "bias"):
            tensor = getattr(layer_module(module, layer), word, None)
            if tensor is not None:
                # some versions of transformers have a `text_model` level, some do not; the file decides
                bare = layer.path.removeprefix("text_model.")
                wanted |= {f"{bare}.{word}": tensor, f"text_model.{bare}.{word}": tensor}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        found = tensors.keys() & wanted.keys()
        if found:
            tensors |= {key: wanted[key].detach().to(tensors[key].dtype).contiguous() for key in found}
            save_file(tensors, path, metadata)
