"""Layers of Lumina2Transformer2DModel (Lumina Image 2) from its config. Its refiners belong to no block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": None,
    "hidden_size": 2304,
    "num_layers": 26,
    "num_refiner_layers": 2,
    "num_attention_heads": 24,
    "num_kv_heads": 8,
    "multiple_of": 256,
    "ffn_dim_multiplier": None,
    "cap_feat_dim": 1024,
}
#: width of the timestep's embedding, where the model is not narrower
TIME = 1024


def labels(config: Config) -> tuple[str, ...]:
    """Return `B00`, `B01`, …"""
    return numbered("B", {**DEFAULTS, **config}["num_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    full = {**DEFAULTS, **config}
    width, text, area = full["hidden_size"], full["cap_feat_dim"], full["patch_size"] ** 2
    time = min(width, TIME)
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    yield entrance.linear("x_embedder", area * full["in_channels"], width)
    path = "time_caption_embed"
    yield from parts.embedder(entrance, f"{path}.timestep_embedder", parts.FREQUENCIES, time)
    yield entrance.norm(f"{path}.caption_embedder.0", text, bias=False)
    yield entrance.linear(f"{path}.caption_embedder.1", text, width)
    for name, modulated in (("noise_refiner", True), ("context_refiner", False)):
        for number in range(full["num_refiner_layers"]):
            yield from _block(entrance, f"{name}.{number}", full, modulated=modulated)
    for number, place in enumerate(stack(component, full["num_layers"])):
        yield from _block(place, f"layers.{number}", full, modulated=True)
    yield exit_.linear("norm_out.linear_1", time, width)
    yield exit_.linear("norm_out.linear_2", width, area * (full["out_channels"] or full["in_channels"]))


def _block(place: Place, path: str, full: Config, *, modulated: bool) -> Iterator[Layer]:
    width = full["hidden_size"]
    head = width // full["num_attention_heads"]
    inner = int((full["ffn_dim_multiplier"] or 1) * 4 * width)
    yield from parts.attention(
        place, f"{path}.attn", width, values=head * full["num_kv_heads"], norm=head, bias=False
    )
    yield from parts.gated(
        place,
        f"{path}.feed_forward",
        width,
        parts.rounded_up(inner, full["multiple_of"]),
        ("linear_1", "linear_2", "linear_3"),
    )
    if modulated:
        yield place.linear(f"{path}.norm1.linear", min(width, TIME), width * 4)
    for name in ("norm1.norm" if modulated else "norm1", "ffn_norm1", "norm2", "ffn_norm2"):
        yield place.norm(f"{path}.{name}", width, bias=False)
