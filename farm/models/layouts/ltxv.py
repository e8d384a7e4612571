"""Layers of LTXVideoTransformer3DModel (LTX-Video) from its config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, require, stack

DEFAULTS: dict[str, Any] = {
    "in_channels": 128,
    "out_channels": 128,
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "cross_attention_dim": 2048,
    "num_layers": 28,
    "norm_elementwise_affine": False,
    "caption_channels": 4096,
    "attention_bias": True,
    "attention_out_bias": True,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `B00`, `B01`, …"""
    return numbered("B", {**DEFAULTS, **config}["num_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    require(config, component, {"activation_fn": ("gelu-approximate",)})
    full = {**DEFAULTS, **config}
    width = full["num_attention_heads"] * full["attention_head_dim"]
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield entrance.linear("proj_in", full["in_channels"], width)
    yield from parts.embedder(entrance, "time_embed.emb.timestep_embedder", parts.FREQUENCIES, width)
    yield entrance.linear("time_embed.linear", width, width * 6)
    yield from parts.embedder(entrance, "caption_projection", full["caption_channels"], width)
    for number, place in enumerate(stack(component, full["num_layers"])):
        path = f"transformer_blocks.{number}"
        for name, sees in (("1", width), ("2", full["cross_attention_dim"])):
            if full["norm_elementwise_affine"]:
                yield place.norm(f"{path}.norm{name}", width, bias=False)
            yield from parts.attention(
                place,
                f"{path}.attn{name}",
                width,
                sees=sees,
                norm=width,
                bias=full["attention_bias"],
                out_bias=full["attention_out_bias"],
            )
        yield from parts.feed_forward(place, f"{path}.ff", width, width * 4)
    yield exit_.linear("proj_out", width, full["out_channels"] or full["in_channels"])
