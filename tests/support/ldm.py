"""Writes a tiny model as a single checkpoint file in LDM's names, the other way round from what loaders do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.models.families import describe, layout

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = (
    (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_(q|k|v)\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"^encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)


def tiny_checkpoint(path: Path, folder: Path) -> Path:
    """Write the tiny model in `folder` to the file `path`, with its tokenizer beside it, and return `path`."""
    two = (folder / "text_encoder_2").is_dir()
    tensors = {f"model.diffusion_model.{key}": value for key, value in _unet(folder)}
    tensors |= {f"first_stage_model.{key}": value for key, value in _vae(folder)}
    clip = _weights(folder, "text_encoder")
    first = "conditioner.embedders.0.transformer." if two else "cond_stage_model.transformer."
    for key, value in clip.items():
        tensors[f"{first}text_model.{key.removeprefix('text_model.')}"] = value
    if two:
        second = _weights(folder, "text_encoder_2")
        tensors |= {f"conditioner.embedders.1.model.{key}": value for key, value in _open_clip(second)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path)
    shutil.copytree(folder / "tokenizer", path.parent / "tokenizer")
    return path


def _weights(folder: Path, name: str) -> Mapping[str, Tensor]:
    return load_file(next((folder / name).glob("*.safetensors")))


def _unet(folder: Path) -> Iterator[tuple[str, Tensor]]:
    info = describe(folder)
    found = layout(info.family, info.configs)
    weights = _weights(folder, "unet")
    names: dict[str, str] = {}
    for layer in found.layers.values():
        if layer.component == "unet":
            label = found.blocks[layer.index] if layer.index >= 0 else ""
            names[layer.path] = _unet_name(layer.path, label, weights)
    for key, value in weights.items():
        path, _, word = key.rpartition(".")
        yield f"{names[path]}.{word}", value


def _unet_name(path: str, label: str, weights: Mapping[str, Tensor]) -> str:
    if not label:
        return _OUTSIDE[path]
    parts = path.split(".")
    kind = parts[1] if parts[0] == "mid_block" else parts[2]
    rest = parts[3:] if parts[0] == "mid_block" else parts[4:]
    if kind == "resnets":
        rest = [_RESNET[rest[0]]]
    if label == "M00":
        place = 1 if kind == "attentions" else 2 * int(parts[2])
        return ".".join(("middle_block", str(place), *rest))
    side, number = ("input_blocks", label[2:]) if label.startswith("IN") else ("output_blocks", label[3:])
    if kind == "downsamplers":
        return f"{side}.{int(number)}.0.op"
    crossed = any(key.startswith(f"{parts[0]}.{parts[1]}.attentions.") for key in weights)
    place = {"resnets": 0, "attentions": 1, "upsamplers": 2 if crossed else 1}[kind]
    return ".".join((side, str(int(number)), str(place), *rest))


def _vae(folder: Path) -> Iterator[tuple[str, Tensor]]:
    levels = len(describe(folder).configs["vae"]["block_out_channels"])
    for key, value in _weights(folder, "vae").items():
        name = key
        up = re.match(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers\.0)\.(.*)", name)
        if up:
            kind = "block" if up[2] == "resnets" else "upsample"
            name = f"decoder.up.{levels - 1 - int(up[1])}.{kind}.{up[3]}"
        for pattern, replacement in _VAE:
            name = re.sub(pattern, replacement, name)
        wide = ".attn_1." in name and name.endswith("weight") and value.ndim == 2
        yield name, value[:, :, None, None] if wide else value


def _open_clip(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    plain = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    parts = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for key, value in weights.items():
        if key in plain:
            yield plain[key], value
        elif key == "text_projection.weight":
            yield "text_projection", value.T
        elif (found := re.match(r"text_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", key)) and found[
            2
        ] in parts:
            yield f"transformer.resblocks.{found[1]}.{parts[found[2]]}.{found[3]}", value
        elif found and found[2] == "self_attn.q_proj":
            base = f"text_model.encoder.layers.{found[1]}.self_attn"
            joined = torch.cat([weights[f"{base}.{name}_proj.{found[3]}"] for name in "qkv"])
            yield f"transformer.resblocks.{found[1]}.attn.in_proj_{found[3]}", joined
