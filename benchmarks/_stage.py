"""What the contenders of `benchmarks.adapters` share: UNets without memory but for the layers that count, and files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farm.lora.layout import Layer, Layout

RANK, ALPHA = 16, 8
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, slots=True)
class Size:
    """A UNet, the dtype of its weights, and the block that drift is looked at in."""

    family: str
    dtype: torch.dtype
    block: str
    config: dict[str, Any] = field(default_factory=dict)


_SDXL = {
    "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"), "transformer_layers_per_block": (1, 1, 5),
    "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SIZES = {
    "sd15": Size("sd1", torch.float32, "down_blocks.1.attentions.0", {"cross_attention_dim": 768}),
    "sdxl": Size("sdxl", torch.bfloat16, "down_blocks.1.attentions.0", _SDXL),
    "quick": Size("sd1", torch.float32, "down_blocks.1.attentions.0", {"cross_attention_dim": 768, "block_out_channels": (64, 64, 64, 64)}),
}  # fmt: skip


def hollow(size: Size) -> nn.Module:
    """The UNet without memory."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**size.config).requires_grad_(False).eval()


def layout_of(size: Size) -> Layout:
    from farm.models.families import layout

    return layout(size.family, {"unet": dict(hollow(size).config)})


def touched(layout: Layout, block: str = "") -> Iterator[Layer]:
    """Attention layers, of one block when it is named."""
    for layer in layout.layers.values():
        if layer.path.endswith(ATTENTION) and "attn" in layer.path and layer.path.startswith(block):
            yield layer


def weights_of(size: Size, layers: list[Layer]) -> dict[str, Tensor]:
    """Weights by path, about as large as trained ones."""
    generator = torch.Generator().manual_seed(0)
    return {
        layer.path: torch.empty(layer.shape, dtype=size.dtype).normal_(0, 0.03, generator=generator)
        for layer in layers
    }


def unet_with(size: Size, weights: dict[str, Tensor]) -> nn.Module:
    """A UNet of which only `weights` have memory, a copy."""
    unet = hollow(size)
    for path, weight in weights.items():
        module = unet.get_submodule(path)
        module.weight = nn.Parameter(weight.clone(), requires_grad=False)
        if module.bias is not None:
            module.bias = nn.Parameter(torch.zeros(weight.shape[0], dtype=weight.dtype), requires_grad=False)
    return unet


def write_adapter(path: Path, layers: list[Layer], seed: int) -> Path:
    """One adapter twice: as kohya's file at `path`, and as peft's folder beside it."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    kohya: dict[str, Tensor] = {}
    peft: dict[str, Tensor] = {}
    for layer in layers:
        up = (torch.randn(layer.shape[0], RANK, generator=generator) * 0.02).half()
        down = (torch.randn(RANK, layer.shape[1], generator=generator) * 0.02).half()
        key = "lora_unet_" + layer.path.replace(".", "_")
        kohya |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
        kohya[f"{key}.alpha"] = torch.tensor(float(ALPHA))
        key = f"base_model.model.{layer.path}"
        peft |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    save_file(kohya, path)
    folder = path.with_suffix("")
    folder.mkdir()
    save_file(peft, folder / "adapter_model.safetensors")
    names = "|".join(re.escape(layer.path) for layer in layers)
    LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=f"^({names})$").save_pretrained(str(folder))
    return path


class Stage:
    """Files, weights and layout that all contenders of one size share."""

    def __init__(self, size: Size, folder: Path, adapters: int, block: str = "") -> None:
        self.size, self.layout = size, layout_of(size)
        self.layers = list(touched(self.layout, block))
        self.weights = weights_of(size, self.layers)
        self.files = [
            write_adapter(folder / f"a{seed}{bool(block):d}.safetensors", self.layers, seed)
            for seed in range(2 * adapters)
        ]

    def contender(self, kind: type[Any], k: int) -> Any:
        unet = unet_with(self.size, self.weights)
        return kind(unet, self.layout, self.files[:k], self.files[k : 2 * k])
