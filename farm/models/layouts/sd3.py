"""Layers of SD3Transformer2DModel (Stable Diffusion 3 and 3.5) from its config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, require, stack

DEFAULTS: dict[str, Any] = {
    "sample_size": 128,
    "pos_embed_max_size": 96,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "dual_attention_layers": (),
    "qk_norm": None,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `B00`, `B01`, …"""
    return numbered("B", {**DEFAULTS, **config}["num_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    require(config, component, {"qk_norm": (None, "rms_norm")})
    full = {**DEFAULTS, **config}
    head, count, patch = full["attention_head_dim"], full["num_layers"], full["patch_size"]
    width = full["num_attention_heads"] * head
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield entrance.conv("pos_embed.proj", full["in_channels"], width, patch)
    yield from parts.embedder(entrance, "time_text_embed.timestep_embedder", parts.FREQUENCIES, width)
    yield from parts.embedder(entrance, "time_text_embed.text_embedder", full["pooled_projection_dim"], width)
    yield entrance.linear("context_embedder", full["joint_attention_dim"], full["caption_projection_dim"])
    for number, place in enumerate(stack(component, count)):
        yield from _block(
            place,
            f"transformer_blocks.{number}",
            width,
            norm=head if full["qk_norm"] else None,
            dual=number in full["dual_attention_layers"],
            last=number == count - 1,
        )
    yield exit_.linear("norm_out.linear", width, width * 2)
    yield exit_.linear("proj_out", width, patch * patch * (full["out_channels"] or full["in_channels"]))


def _block(
    place: Place, path: str, width: int, *, norm: int | None, dual: bool, last: bool
) -> Iterator[Layer]:
    """Yield a joint block; the last one gives no text on, those of 3.5 attend to the picture a second time."""
    yield place.linear(f"{path}.norm1.linear", width, width * (9 if dual else 6))
    yield place.linear(f"{path}.norm1_context.linear", width, width * (2 if last else 6))
    yield from parts.attention(place, f"{path}.attn", width, norm=norm)
    yield from parts.added_attention(place, f"{path}.attn", width, norm=norm, out=not last)
    if dual:
        yield from parts.attention(place, f"{path}.attn2", width, norm=norm)
    yield from parts.feed_forward(place, f"{path}.ff", width, width * 4)
    if not last:
        yield from parts.feed_forward(place, f"{path}.ff_context", width, width * 4)
