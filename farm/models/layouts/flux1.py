"""Layers of FluxTransformer2DModel (Flux.1) and of ChromaTransformer2DModel, which is Flux.1 with its modulation distilled
into one network, from their configs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts import parts
from farm.models.layouts.blocks import Config, Place, numbered, stack

DEFAULTS: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "out_channels": None,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    # of Chroma alone
    "approximator_num_channels": 64,
    "approximator_hidden_dim": 5120,
    "approximator_layers": 5,
}


def labels(config: Config) -> tuple[str, ...]:
    """Return `D00` … for the double-stream blocks, then `S00` … for the single-stream ones."""
    full = {**DEFAULTS, **config}
    return numbered("D", full["num_layers"]) + numbered("S", full["num_single_layers"])


def layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer of a Flux.1 that has a weight."""
    full = {**DEFAULTS, **config}
    width = full["num_attention_heads"] * full["attention_head_dim"]
    place = Place(component, "in")
    embedders = [("timestep", parts.FREQUENCIES), ("text", full["pooled_projection_dim"])]
    if full["guidance_embeds"]:
        embedders.append(("guidance", parts.FREQUENCIES))
    for name, into in embedders:
        yield from parts.embedder(place, f"time_text_embed.{name}_embedder", into, width)
    yield from _trunk(full, component, modulated=True)
    yield Place(component, "out").linear("norm_out.linear", width, width * 2)


def chroma_layers(config: Config, component: str = "transformer") -> Iterator[Layer]:
    """Yield every layer of a Chroma that has a weight."""
    full = {**DEFAULTS, **config}
    width = full["num_attention_heads"] * full["attention_head_dim"]
    hidden = full["approximator_hidden_dim"]
    place, path = Place(component, "in"), "distilled_guidance_layer"
    yield place.linear(f"{path}.in_proj", full["approximator_num_channels"], hidden)
    for number in range(full["approximator_layers"]):
        yield from parts.embedder(place, f"{path}.layers.{number}", hidden, hidden)
        yield place.norm(f"{path}.norms.{number}", hidden, bias=False)
    yield place.linear(f"{path}.out_proj", hidden, width)
    yield from _trunk(full, component, modulated=False)


def _trunk(full: Config, component: str, *, modulated: bool) -> Iterator[Layer]:
    """Yield what both have: entrances of text and picture, the blocks, the way out."""
    head, doubles = full["attention_head_dim"], full["num_layers"]
    width = full["num_attention_heads"] * head
    entrance = Place(component, "in")
    yield entrance.linear("context_embedder", full["joint_attention_dim"], width)
    yield entrance.linear("x_embedder", full["in_channels"], width)
    places = stack(component, doubles + full["num_single_layers"])
    for number, place in enumerate(places[:doubles]):
        path = f"transformer_blocks.{number}"
        if modulated:
            yield place.linear(f"{path}.norm1.linear", width, width * 6)
            yield place.linear(f"{path}.norm1_context.linear", width, width * 6)
        yield from parts.double_block(place, path, width, width * 4, head)
    for number, place in enumerate(places[doubles:]):
        path = f"single_transformer_blocks.{number}"
        if modulated:
            yield place.linear(f"{path}.norm.linear", width, width * 3)
        yield from parts.single_block(place, path, width, width * 4, head)
    out = full["patch_size"] ** 2 * (full["out_channels"] or full["in_channels"])
    yield Place(component, "out").linear("proj_out", width, out)
