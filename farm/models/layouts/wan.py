"""Layers of WanTransformer3DModel (Wan 2.1 and 2.2, from text or from a picture) from its config.

Wan 2.2 has two of them, one for the noisy steps (`transformer`) and one for the rest (`transformer_2`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "image_dim": None,
    "added_kv_proj_dim": None,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `B00`, `B01`, …"""
    return numbered("B", {**DEFAULTS, **config}["num_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    full = {**DEFAULTS, **config}
    width = full["num_attention_heads"] * full["attention_head_dim"]
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield entrance.conv("patch_embedding", full["in_channels"], width, full["patch_size"])
    path = "condition_embedder"
    yield from parts.embedder(entrance, f"{path}.time_embedder", full["freq_dim"], width)
    yield entrance.linear(f"{path}.time_proj", width, width * 6)
    yield from parts.embedder(entrance, f"{path}.text_embedder", full["text_dim"], width)
    if full["image_dim"] is not None:
        yield entrance.norm(f"{path}.image_embedder.norm1", full["image_dim"])
        yield from parts.feed_forward(
            entrance, f"{path}.image_embedder.ff", width, full["image_dim"], into=full["image_dim"]
        )
        yield entrance.norm(f"{path}.image_embedder.norm2", width)
    for number, place in enumerate(stack(component, full["num_layers"])):
        yield from _block(place, f"blocks.{number}", width, full)
    out = (full["out_channels"] or full["in_channels"]) * math.prod(full["patch_size"])
    yield exit_.linear("proj_out", width, out)


def _block(place: Place, path: str, width: int, full: Config) -> Iterator[Layer]:
    yield from parts.attention(place, f"{path}.attn1", width, norm=width)
    yield from parts.attention(place, f"{path}.attn2", width, norm=width)
    if full["added_kv_proj_dim"] is not None:
        yield place.linear(f"{path}.attn2.add_k_proj", full["added_kv_proj_dim"], width)
        yield place.linear(f"{path}.attn2.add_v_proj", full["added_kv_proj_dim"], width)
        yield place.norm(f"{path}.attn2.norm_added_k", width, bias=False)
    if full["cross_attn_norm"]:
        yield place.norm(f"{path}.norm2", width)
    yield from parts.feed_forward(place, f"{path}.ffn", width, full["ffn_dim"])
