"""Writes safetensors files: streamed from the tensors, with the hashes of their content in the metadata, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.tensors import DTYPES

_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
#: the header ends on a multiple of this, as the safetensors library writes it
_ALIGNMENT = 8


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` with `metadata` to `path`, which appears only once it is complete.

    To the metadata come `sshs_model_hash` (kohya's, read by web UIs) and `modelspec.hash_sha256`: both are the SHA-256
    of all bytes behind the header. Tensors stand in the order of the safetensors library: large elements first.

    Raises:
        BadRequest: something of this name exists.
    """
    if path.exists():
        raise BadRequest(f"{path} exists already", "name a file that does not", code="exists")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    digest = hashlib.sha256()
    for name in order:
        digest.update(_bytes(tensors[name]))
    sha256 = digest.hexdigest()
    hashes = {"sshs_model_hash": sha256, "modelspec.hash_sha256": f"0x{sha256}"}
    header = _header(order, tensors, {**metadata, **hashes})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for name in order:
                file.write(_bytes(tensors[name]))
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _header(order: list[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name in order:
        tensor = tensors[name]
        end = place + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
