"""Layers of AuraFlowTransformer2DModel (AuraFlow) from its config: no biases but at the entrances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "pos_embed_max_size": 1024,
    "patch_size": 2,
    "in_channels": 4,
    "num_mmdit_layers": 4,
    "num_single_dit_layers": 32,
    "attention_head_dim": 256,
    "num_attention_heads": 12,
    "joint_attention_dim": 2048,
    "caption_projection_dim": 3072,
    "out_channels": 4,
}
#: widths inside feed-forward networks are multiples of this
MULTIPLE = 256


def labels(config: Config) -> tuple[str, ...]:
    """Return `D00` … for the double-stream blocks, then `S00` … for the single-stream ones."""
    full = {**DEFAULTS, **config}
    return numbered("D", full["num_mmdit_layers"]) + numbered("S", full["num_single_dit_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    full = {**DEFAULTS, **config}
    width = full["num_attention_heads"] * full["attention_head_dim"]
    doubles, area = full["num_mmdit_layers"], full["patch_size"] ** 2
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield entrance.linear("pos_embed.proj", area * full["in_channels"], width)
    yield entrance.linear(
        "context_embedder", full["joint_attention_dim"], full["caption_projection_dim"], bias=False
    )
    yield from parts.embedder(entrance, "time_step_proj", parts.FREQUENCIES, width)
    for number, place in enumerate(stack(component, doubles + full["num_single_dit_layers"])):
        double = number < doubles
        path = (
            f"joint_transformer_blocks.{number}"
            if double
            else f"single_transformer_blocks.{number - doubles}"
        )
        yield from _block(place, path, width, double=double)
    yield exit_.linear("norm_out.linear", width, width * 2, bias=False)
    yield exit_.linear("proj_out", width, area * (full["out_channels"] or full["in_channels"]), bias=False)


def _block(place: Place, path: str, width: int, *, double: bool) -> Iterator[Layer]:
    inner = parts.rounded_up(int(8 * width / 3), MULTIPLE)
    yield from parts.attention(place, f"{path}.attn", width, bias=False)
    if double:
        yield from parts.added_attention(place, f"{path}.attn", width, bias=False)
    for norm, network in (("norm1", "ff"), ("norm1_context", "ff_context"))[: 2 if double else 1]:
        yield place.linear(f"{path}.{norm}.linear", width, width * 6, bias=False)
        yield from parts.gated(
            place, f"{path}.{network}", width, inner, ("linear_1", "out_projection", "linear_2")
        )
