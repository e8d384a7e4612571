"""Layers of ZImageTransformer2DModel (Z-Image) from its config. Its refiners belong to no block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "all_patch_size": (2,),
    "all_f_patch_size": (1,),
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "qk_norm": True,
    "cap_feat_dim": 2560,
    "siglip_feat_dim": None,
}
#: width of the timestep's embedding, where the model is not narrower, and inside its embedder
TIME, TIME_INNER = 256, 1024


def labels(config: Config) -> tuple[str, ...]:
    """Return `B00`, `B01`, …"""
    return numbered("B", {**DEFAULTS, **config}["n_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer that has a weight."""
    full = {**DEFAULTS, **config}
    width, time = full["dim"], min(full["dim"], TIME)
    entrance, exit_ = Place(component, "in"), Place(component, "out")
    patches = tuple(zip(full["all_patch_size"], full["all_f_patch_size"], strict=True))
    for size, frames in patches:
        values = frames * size**2 * full["in_channels"]
        yield entrance.linear(f"all_x_embedder.{size}-{frames}", values, width)
    yield entrance.linear("t_embedder.mlp.0", parts.FREQUENCIES, TIME_INNER)
    yield entrance.linear("t_embedder.mlp.2", TIME_INNER, time)
    texts = {"cap": full["cap_feat_dim"], "siglip": full["siglip_feat_dim"]}
    for name, into in texts.items():
        if into is not None:
            yield entrance.norm(f"{name}_embedder.0", into, bias=False)
            yield entrance.linear(f"{name}_embedder.1", into, width)
    refiners = ["noise_refiner", "context_refiner"] + ["siglip_refiner"] * (texts["siglip"] is not None)
    for name in refiners:
        for number in range(full["n_refiner_layers"]):
            yield from _block(entrance, f"{name}.{number}", full, modulated=name == "noise_refiner")
    for number, place in enumerate(stack(component, full["n_layers"])):
        yield from _block(place, f"layers.{number}", full, modulated=True)
    for size, frames in patches:
        path = f"all_final_layer.{size}-{frames}"
        yield exit_.linear(f"{path}.linear", width, frames * size**2 * full["in_channels"])
        yield exit_.linear(f"{path}.adaLN_modulation.1", time, width)


def _block(place: Place, path: str, full: Config, *, modulated: bool) -> Iterator[Layer]:
    width = full["dim"]
    norm = width // full["n_heads"] if full["qk_norm"] else None
    yield from parts.attention(place, f"{path}.attention", width, norm=norm, bias=False)
    yield from parts.gated(place, f"{path}.feed_forward", width, int(width / 3 * 8))
    for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
        yield place.norm(f"{path}.{name}", width, bias=False)
    if modulated:
        yield place.linear(f"{path}.adaLN_modulation.0", min(width, TIME), width * 4)
