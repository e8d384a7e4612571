"""Layers of HiDreamImageTransformer2DModel (HiDream-I1) from its config: feed-forward networks are mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 16,
    "num_single_layers": 32,
    "attention_head_dim": 128,
    "num_attention_heads": 20,
    "caption_channels": (4096, 4096),
    "text_emb_dim": 2048,
    "num_routed_experts": 4,
    "max_resolution": (128, 128),
}
#: widths inside feed-forward networks are multiples of this
MULTIPLE = 256


def labels(config: Config) -> tuple[str, ...]:
    """Return `D00` … for the double-stream blocks, then `S00` … for the single-stream ones."""
    full = {**DEFAULTS, **config}
    return numbered("D", full["num_layers"]) + numbered("S", full["num_single_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    full = {**DEFAULTS, **config}
    width = full["num_attention_heads"] * full["attention_head_dim"]
    doubles, area = full["num_layers"], full["patch_size"] ** 2
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield from parts.embedder(entrance, "t_embedder.timestep_embedder", parts.FREQUENCIES, width)
    yield from parts.embedder(entrance, "p_embedder.pooled_embedder", full["text_emb_dim"], width)
    yield entrance.linear("x_embedder.proj", area * full["in_channels"], width)
    places = stack(component, doubles + full["num_single_layers"])
    t5, llama = full["caption_channels"]
    for number, into in enumerate([llama] * len(places) + [t5]):
        yield entrance.linear(f"caption_projection.{number}.linear", into, width, bias=False)
    for number, place in enumerate(places):
        double = number < doubles
        path = f"double_stream_blocks.{number}" if double else f"single_stream_blocks.{number - doubles}"
        yield from _block(place, f"{path}.block", width, full["num_routed_experts"], double=double)
    yield exit_.linear("final_layer.linear", width, area * (full["out_channels"] or full["in_channels"]))
    yield exit_.linear("final_layer.adaLN_modulation.1", width, width * 2)


def _block(place: Place, path: str, width: int, experts: int, *, double: bool) -> Iterator[Layer]:
    yield place.linear(f"{path}.adaLN_modulation.1", width, width * (12 if double else 6))
    for side in ("", "_t") if double else ("",):
        for name in ("to_q", "to_k", "to_v", "to_out"):
            yield place.linear(f"{path}.attn1.{name}{side}", width, width)
        yield place.norm(f"{path}.attn1.q_rms_norm{side}", width, bias=False)
        yield place.norm(f"{path}.attn1.k_rms_norm{side}", width, bias=False)
    inner, shared = _inner(width * 4), _inner(width * 2)
    if experts:
        yield from parts.gated(place, f"{path}.ff_i.shared_experts", width, shared)
        for number in range(experts):
            yield from parts.gated(place, f"{path}.ff_i.experts.{number}", width, inner)
        yield place.linear(f"{path}.ff_i.gate", width, experts, bias=False)
    else:
        yield from parts.gated(place, f"{path}.ff_i", width, inner)
    if double:
        yield from parts.gated(place, f"{path}.ff_t", width, inner)


def _inner(hidden: int) -> int:
    return parts.rounded_up(int(2 * hidden / 3), MULTIPLE)
