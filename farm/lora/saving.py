"""Writes an extraction as one adapter file that our engine, diffusers, kohya's scripts and web UIs load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farm.lora.extract import Kept
from farm.lora.files import write_file
from farm.lora.formats.naming import key_table
from farm.lora.formats.provenance import Made, of_lora
from farm.lora.layout import Layout


def save_lora(path: Path, kept: Sequence[Kept], layout: Layout, made: Made) -> None:
    """Write `kept` to `path`. Raises BadRequest when something of this name exists."""
    keys = key_table(layout)
    tensors = {
        keys[found.layer.name, suffix]: tensor
        for found in kept
        for suffix, tensor in found.tensors.items()
        if (found.layer.name, suffix) in keys
    }
    downs = [found.tensors["lora_down"] for found in kept if "lora_down" in found.tensors]
    metadata = of_lora(
        made,
        ranks=[down.shape[0] for down in downs],
        kernels=any(max(down.shape[2:], default=1) > 1 for down in downs),
        whole=any({"diff", "diff_b"} & found.tensors.keys() for found in kept),
    )
    write_file(path, tensors, metadata)
