"""Recognises single-file checkpoints in LDM's names (Stable Diffusion 1.5 and XL) by their header, without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.errors import BadRequest
from farm.lora.formats.header import Header, read_header

_UNET = "model.diffusion_model."
#: starts of the names of transformers' blocks, as publishers and diffusers write them
_TRANSFORMER = re.compile(
    r"(model\.diffusion_model\.)?((double|single|joint)_blocks|(single_)?transformer_blocks|blocks|layers|"
    r"(single|joint)_transformer_blocks|double_stream_blocks|(noise|context)_refiner)\.\d"
)
_ATTENTION = "transformer_blocks.0.attn2.to_k.weight"
#: family by the width of the text that the UNet attends to
_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


#: Marks that trainers put into checkpoints, and the fields of the scheduler that they mean.
_MARKS: Mapping[str, Mapping[str, Any]] = {
    "v_pred": {"prediction_type": "v_prediction"},
    "ztsnr": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
}


def read_checkpoint(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the checkpoint's family, `sd1` or `sdxl`, and what it says of its scheduler.

    Raises:
        BadRequest: no safetensors, no whole checkpoint, or a family that cannot be read from one file.
    """
    if path.suffix.lower() != ".safetensors":
        raise BadRequest(
            f"{path.name} is no .safetensors file, and Farm reads no pickle files",
            "convert the checkpoint to safetensors",
            code="bad_model",
        )
    header = read_header(path)
    said: dict[str, Any] = {}
    for mark, fields in _MARKS.items():
        if mark in header.tensors:
            said |= fields
    return recognise(header, path.name), said


def recognise(header: Header, name: str) -> str:
    """Return the family of a checkpoint with this header; raises as `read_checkpoint`."""
    keys = header.tensors
    of_unet = any(key.startswith(_UNET) for key in keys)
    if not of_unet and any("lora" in key or "hada_" in key or "lokr_" in key for key in keys):
        raise BadRequest(f"{name} is an adapter, not a base model", "add it as an adapter", code="bad_model")
    if any(_TRANSFORMER.match(key) for key in keys):
        raise BadRequest(
            f"{name} is a transformer's checkpoint; Farm reads single files of Stable Diffusion 1.5 and XL only",
            "give a diffusers folder",
            code="unsupported_model",
        )
    if not of_unet:
        raise BadRequest(f"{name} holds no UNet in LDM's names", "give a diffusers folder", code="bad_model")
    for part, prefix in (
        ("VAE", "first_stage_model."),
        ("text encoder", ("cond_stage_model.", "conditioner.")),
    ):
        if not any(key.startswith(prefix) for key in keys):
            raise BadRequest(
                f"{name} holds no {part}, only parts of a model", "give a whole checkpoint", code="bad_model"
            )
    first = keys.get(f"{_UNET}input_blocks.0.0.weight")
    if first is not None and len(first.shape) == 4 and first.shape[1] != 4:
        raise BadRequest(
            f"{name} takes {first.shape[1]} channels in: an inpainting or edit model, which Farm does not run",
            code="unsupported_model",
        )
    width = next((info.shape[1] for key, info in keys.items() if key.endswith(_ATTENTION)), 0)
    family = _WIDTHS.get(width, "unknown")
    if family not in ("sd1", "sdxl"):
        found = "a Stable Diffusion 2" if family == "sd2" else f"an unknown (text width {width})"
        raise BadRequest(
            f"{name} is {found} checkpoint, which Farm cannot read from a single file",
            "convert it to a diffusers folder",
            code="unsupported_model",
        )
    return family
