"""Tiny modules, their layouts and random adapter files for the tests of the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from farm.lora.formats.header import Header, parse_header
from farm.lora.layout import Layer, LayerKind, Layout
from tests.support.tiny import SD15_UNET, SDXL_UNET

torch.set_num_threads(1)

_KINDS: tuple[tuple[type[nn.Module], LayerKind], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv2d, "conv"),
    (nn.Conv3d, "conv"),
    (nn.Embedding, "embedding"),
    (nn.Module, "norm"),
)
TEXT = CLIPTextConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=60,
    projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
)  # fmt: skip


def modules(family: str = "sd1", seed: int = 0) -> dict[str, nn.Module]:
    """A UNet and text encoders with real names and small widths."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**(SDXL_UNET if family == "sdxl" else SD15_UNET))
    found: dict[str, nn.Module] = {"text_encoder": CLIPTextModel(TEXT)}
    if family == "sdxl":
        found["text_encoder_2"] = CLIPTextModelWithProjection(TEXT)
    found["unet"] = unet
    return {name: module.requires_grad_(False).eval() for name, module in found.items()}


@cache
def layout(family: str = "sd1") -> Layout:
    return layout_of(modules(family), family)


def layout_of(parts: Mapping[str, nn.Module], family: str) -> Layout:
    layers = {}
    for component, module in parts.items():
        for path, child in module.named_modules():
            weight = getattr(child, "weight", None)
            if not isinstance(weight, Tensor):
                continue
            block, index = _block(component, path)
            layer = Layer(
                component=component,
                path=path,
                kind=next(kind for cls, kind in _KINDS if isinstance(child, cls)),
                shape=tuple(weight.shape),
                bias=getattr(child, "bias", None) is not None,
                block=block,
                index=index,
            )
            layers[layer.name] = layer
    text = tuple(name for name in parts if name.startswith("text"))
    return Layout(
        family=family,
        denoisers=tuple(name for name in parts if name not in text),
        text_encoders=text,
        blocks=("IN00", "IN01", "IN02", "IN03", "M00", "OUT00", "OUT01", "OUT02", "OUT03"),
        layers=layers,
    )


def _block(component: str, path: str) -> tuple[str, int]:
    if component.startswith("text"):
        return "all", -1
    found = re.match(r"(down_blocks|up_blocks)\.(\d)", path)
    if found:
        return ("in", int(found[2])) if found[1] == "down_blocks" else ("out", 5 + int(found[2]))
    return ("mid", 4) if path.startswith("mid_block") else ("in", -1)


def header(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Header:
    raw = save(dict(tensors), metadata)
    return parse_header(raw, len(raw))


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(save({name: t.contiguous() for name, t in tensors.items()}, metadata))
    return path


def kohya(layer: Layer) -> str:
    """Module name of a layer as kohya's trainers write it."""
    if layer.component == "unet":
        return "lora_unet_" + layer.path.replace(".", "_")
    prefix = "lora_te2_" if layer.component == "text_encoder_2" else "lora_te_"
    path = layer.path if layer.path.startswith("text") else f"text_model.{layer.path}"
    return prefix + path.replace(".", "_")


def rand(*shape: int, seed: int = 0, scale: float = 0.2, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7919 * sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def lora_tensors(
    layer: Layer, name: str, rank: int = 3, seed: int = 0, alpha: float = 1.5
) -> dict[str, Tensor]:
    """Random kohya LoRA (or LoCon) of one layer."""
    out, *rest = layer.shape
    up = rand(out, rank, *[1 for _ in rest[1:]], seed=seed)
    return {
        f"{name}.lora_up.weight": up,
        f"{name}.lora_down.weight": rand(rank, *rest, seed=seed + 1),
        f"{name}.alpha": torch.tensor(alpha),
    }


def attention(of: Layout, component: str = "unet") -> list[Layer]:
    part = "attn" if component == "unet" else "self_attn"
    return [
        x for x in of.layers.values() if x.component == component and part in x.path and x.kind == "linear"
    ]
