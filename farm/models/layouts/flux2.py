"""Layers of Flux2Transformer2DModel (Flux.2 and Klein) from its config: no biases, one modulation for all blocks of a kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 128,
    "out_channels": None,
    "num_layers": 8,
    "num_single_layers": 48,
    "attention_head_dim": 128,
    "num_attention_heads": 48,
    "joint_attention_dim": 15360,
    "timestep_guidance_channels": 256,
    "mlp_ratio": 3.0,
    "guidance_embeds": True,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `D00` … for the double-stream blocks, then `S00` … for the single-stream ones."""
    full = {**DEFAULTS, **config}
    return numbered("D", full["num_layers"]) + numbered("S", full["num_single_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    full = {**DEFAULTS, **config}
    head, doubles = full["attention_head_dim"], full["num_layers"]
    width = full["num_attention_heads"] * head
    inner = int(width * full["mlp_ratio"])
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    for name in ("timestep", *(("guidance",) if full["guidance_embeds"] else ())):
        path = f"time_guidance_embed.{name}_embedder"
        yield from parts.embedder(entrance, path, full["timestep_guidance_channels"], width, bias=False)
    for name, times in (
        ("double_stream_modulation_img", 6),
        ("double_stream_modulation_txt", 6),
        ("single_stream_modulation", 3),
    ):
        yield entrance.linear(f"{name}.linear", width, width * times, bias=False)
    yield entrance.linear("x_embedder", full["in_channels"], width, bias=False)
    yield entrance.linear("context_embedder", full["joint_attention_dim"], width, bias=False)
    places = stack(component, doubles + full["num_single_layers"])
    for number, place in enumerate(places[:doubles]):
        path = f"transformer_blocks.{number}"
        yield from parts.attention(place, f"{path}.attn", width, norm=head, bias=False)
        yield from parts.added_attention(place, f"{path}.attn", width, norm=head, bias=False)
        for name in ("ff", "ff_context"):
            # gate and values in one matrix
            yield place.linear(f"{path}.{name}.linear_in", width, inner * 2, bias=False)
            yield place.linear(f"{path}.{name}.linear_out", inner, width, bias=False)
    for number, place in enumerate(places[doubles:]):
        path = f"single_transformer_blocks.{number}.attn"
        # queries, keys, values and the feed-forward network's gate and values in one matrix
        yield place.linear(f"{path}.to_qkv_mlp_proj", width, width * 3 + inner * 2, bias=False)
        yield place.norm(f"{path}.norm_q", head, bias=False)
        yield place.norm(f"{path}.norm_k", head, bias=False)
        yield place.linear(f"{path}.to_out", width + inner, width, bias=False)
    yield exit_.linear("norm_out.linear", width, width * 2, bias=False)
    out = full["patch_size"] ** 2 * (full["out_channels"] or full["in_channels"])
    yield exit_.linear("proj_out", width, out, bias=False)
