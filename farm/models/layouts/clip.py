"""Layers of CLIP text encoders, with and without projection, from their config.

A `CLIPTextModel` calls its layers `encoder.layers.…`; one with projection has a level `text_model.` above them.
Releases of transformers before 5 have that level in both: `farm.models.load` hands out the part below it.
"""

from __future__ import annotations

from collections.abc import Iterator

from farm.lora.layout import Layer
from farm.models.layouts.blocks import Config, Place


def layers(config: Config, component: str, *, projection: bool) -> Iterator[Layer]:
    """Yield every layer of the encoder. Fields that `config` lacks have the defaults of `CLIPTextConfig`."""
    place = Place(component, "all")
    hidden = int(config.get("hidden_size", 512))
    inner = int(config.get("intermediate_size", 2048))
    level = "text_model." if projection else ""
    words, positions = int(config.get("vocab_size", 49408)), int(config.get("max_position_embeddings", 77))
    yield place.embedding(f"{level}embeddings.token_embedding", words, hidden)
    yield place.embedding(f"{level}embeddings.position_embedding", positions, hidden)
    for number in range(int(config.get("num_hidden_layers", 12))):
        path = f"{level}encoder.layers.{number}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield place.linear(f"{path}.self_attn.{name}", hidden, hidden)
        yield place.norm(f"{path}.layer_norm1", hidden)
        yield place.linear(f"{path}.mlp.fc1", hidden, inner)
        yield place.linear(f"{path}.mlp.fc2", inner, hidden)
        yield place.norm(f"{path}.layer_norm2", hidden)
    yield place.norm(f"{level}final_layer_norm", hidden)
    if projection:
        yield place.linear("text_projection", hidden, int(config.get("projection_dim", 512)), bias=False)
