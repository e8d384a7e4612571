"""Layers of HunyuanVideoTransformer3DModel from its config. Its token refiner belongs to no block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, require, stack

DEFAULTS: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "num_layers": 20,
    "num_single_layers": 40,
    "num_refiner_layers": 2,
    "mlp_ratio": 4.0,
    "patch_size": 2,
    "patch_size_t": 1,
    "guidance_embeds": True,
    "text_embed_dim": 4096,
    "pooled_projection_dim": 768,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `D00` … for the double-stream blocks, then `S00` … for the single-stream ones."""
    full = {**DEFAULTS, **config}
    return numbered("D", full["num_layers"]) + numbered("S", full["num_single_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    require(config, component, {"qk_norm": ("rms_norm",)})
    full = {**DEFAULTS, **config}
    head, doubles = full["attention_head_dim"], full["num_layers"]
    width = full["num_attention_heads"] * head
    inner = int(width * full["mlp_ratio"])
    patch = (full["patch_size_t"], full["patch_size"], full["patch_size"])
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield entrance.conv("x_embedder.proj", full["in_channels"], width, patch)
    yield from _refiner(entrance, "context_embedder", full, width)
    embedders = {"timestep": parts.FREQUENCIES, "text": full["pooled_projection_dim"]}
    if full["guidance_embeds"]:
        embedders["guidance"] = parts.FREQUENCIES
    for name, into in embedders.items():
        yield from parts.embedder(entrance, f"time_text_embed.{name}_embedder", into, width)
    places = stack(component, doubles + full["num_single_layers"])
    for number, place in enumerate(places[:doubles]):
        path = f"transformer_blocks.{number}"
        yield place.linear(f"{path}.norm1.linear", width, width * 6)
        yield place.linear(f"{path}.norm1_context.linear", width, width * 6)
        yield from parts.double_block(place, path, width, inner, head)
    for number, place in enumerate(places[doubles:]):
        path = f"single_transformer_blocks.{number}"
        yield place.linear(f"{path}.norm.linear", width, width * 3)
        yield from parts.single_block(place, path, width, inner, head)
    yield exit_.linear("norm_out.linear", width, width * 2)
    out = full["patch_size_t"] * full["patch_size"] ** 2 * (full["out_channels"] or full["in_channels"])
    yield exit_.linear("proj_out", width, out)


def _refiner(place: Place, path: str, full: Config, width: int) -> Iterator[Layer]:
    text = full["text_embed_dim"]
    yield from parts.embedder(place, f"{path}.time_text_embed.timestep_embedder", parts.FREQUENCIES, width)
    yield from parts.embedder(place, f"{path}.time_text_embed.text_embedder", text, width)
    yield place.linear(f"{path}.proj_in", text, width)
    for number in range(full["num_refiner_layers"]):
        block = f"{path}.token_refiner.refiner_blocks.{number}"
        yield place.norm(f"{block}.norm1", width)
        yield from parts.attention(place, f"{block}.attn", width)
        yield place.norm(f"{block}.norm2", width)
        yield from parts.feed_forward(place, f"{block}.ff", width, width * 4)
        yield place.linear(f"{block}.norm_out.linear", width, width * 2)
