"""Layers of QwenImageTransformer2DModel (Qwen-Image) from its config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "use_additional_t_cond": False,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `B00`, `B01`, …"""
    return numbered("B", {**DEFAULTS, **config}["num_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    full = {**DEFAULTS, **config}
    head, text = full["attention_head_dim"], full["joint_attention_dim"]
    width = full["num_attention_heads"] * head
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield from parts.embedder(entrance, "time_text_embed.timestep_embedder", parts.FREQUENCIES, width)
    if full["use_additional_t_cond"]:
        yield entrance.embedding("time_text_embed.addition_t_embedding", 2, width)
    yield entrance.norm("txt_norm", text, bias=False)
    yield entrance.linear("img_in", full["in_channels"], width)
    yield entrance.linear("txt_in", text, width)
    for number, place in enumerate(stack(component, full["num_layers"])):
        path = f"transformer_blocks.{number}"
        yield from parts.attention(place, f"{path}.attn", width, norm=head)
        yield from parts.added_attention(place, f"{path}.attn", width, norm=head)
        for side in ("img", "txt"):
            yield place.linear(f"{path}.{side}_mod.1", width, width * 6)
            yield from parts.feed_forward(place, f"{path}.{side}_mlp", width, width * 4)
    yield exit_.linear("norm_out.linear", width, width * 2)
    yield exit_.linear(
        "proj_out", width, full["patch_size"] ** 2 * (full["out_channels"] or full["in_channels"])
    )
