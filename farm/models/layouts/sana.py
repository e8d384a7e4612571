"""Layers of SanaTransformer2DModel (Sana, SANA-Sprint) from its config: its feed-forward networks are convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, require, stack

DEFAULTS: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "attention_bias": False,
    "patch_size": 1,
    "norm_elementwise_affine": False,
    "guidance_embeds": False,
    "qk_norm": None,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `B00`, `B01`, …"""
    return numbered("B", {**DEFAULTS, **config}["num_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    require(config, component, {"qk_norm": (None, "rms_norm_across_heads")})
    full = {**DEFAULTS, **config}
    width = full["num_attention_heads"] * full["attention_head_dim"]
    patch = full["patch_size"]
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield entrance.conv("patch_embed.proj", full["in_channels"], width, patch)
    if full["guidance_embeds"]:
        for name in ("timestep", "guidance"):
            yield from parts.embedder(entrance, f"time_embed.{name}_embedder", parts.FREQUENCIES, width)
    else:
        yield from parts.embedder(entrance, "time_embed.emb.timestep_embedder", parts.FREQUENCIES, width)
    yield entrance.linear("time_embed.linear", width, width * 6)
    yield from parts.embedder(entrance, "caption_projection", full["caption_channels"], width)
    yield entrance.norm("caption_norm", width, bias=False)
    for number, place in enumerate(stack(component, full["num_layers"])):
        yield from _block(place, f"transformer_blocks.{number}", width, full)
    yield exit_.linear("proj_out", width, patch * patch * (full["out_channels"] or full["in_channels"]))


def _block(place: Place, path: str, width: int, full: Config) -> Iterator[Layer]:
    normed = full["qk_norm"] is not None
    yield from parts.attention(
        place,
        f"{path}.attn1",
        width,
        norm=width if normed else None,
        bias=full["attention_bias"],
        out_bias=True,
    )
    crossed = full["num_cross_attention_heads"] * full["cross_attention_head_dim"]
    if full["norm_elementwise_affine"]:
        yield place.norm(f"{path}.norm2", width)
    yield from parts.attention(
        place,
        f"{path}.attn2",
        width,
        inner=crossed,
        sees=full["cross_attention_dim"],
        norm=crossed if normed else None,
    )
    hidden = int(full["mlp_ratio"] * width)
    yield place.conv(f"{path}.ff.conv_inverted", width, hidden * 2, 1)
    yield place.conv(f"{path}.ff.conv_depth", hidden * 2, hidden * 2, 3, groups=hidden * 2)
    yield place.conv(f"{path}.ff.conv_point", hidden, width, 1, bias=False)
