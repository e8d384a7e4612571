"""Layers of T5 and UMT5 encoders from their config.

`encoder.embed_tokens` is left out: it has no weight of its own, but that of `shared`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from farm.lora.layout import Layer
from farm.models.layouts.blocks import Config, Place

T5: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "feed_forward_proj": "relu",
}
UMT5: dict[str, Any] = {
    **T5,
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}


def t5_layers(config: Config, component: str) -> Iterator[Layer]:
    """Yield every layer of a T5 encoder: only its first block has a table of relative positions."""
    return _layers({**T5, **config}, component, tables=1)


def umt5_layers(config: Config, component: str) -> Iterator[Layer]:
    """Yield every layer of a UMT5 encoder: every block has a table of relative positions."""
    full = {**UMT5, **config}
    return _layers(full, component, tables=full["num_layers"])


def _layers(full: Config, component: str, *, tables: int) -> Iterator[Layer]:
    place = Place(component, "all")
    width, heads, hidden = full["d_model"], full["num_heads"], full["d_ff"]
    inner = heads * full["d_kv"]
    gates = ("wi_0", "wi_1") if str(full["feed_forward_proj"]).startswith("gated") else ("wi",)
    yield place.embedding("shared", full["vocab_size"], width)
    for number in range(full["num_layers"]):
        path = f"encoder.block.{number}.layer"
        for name in ("q", "k", "v"):
            yield place.linear(f"{path}.0.SelfAttention.{name}", width, inner, bias=False)
        yield place.linear(f"{path}.0.SelfAttention.o", inner, width, bias=False)
        if number < tables:
            table = f"{path}.0.SelfAttention.relative_attention_bias"
            yield place.embedding(table, full["relative_attention_num_buckets"], heads)
        yield place.norm(f"{path}.0.layer_norm", width, bias=False)
        for name in gates:
            yield place.linear(f"{path}.1.DenseReluDense.{name}", width, hidden, bias=False)
        yield place.linear(f"{path}.1.DenseReluDense.wo", hidden, width, bias=False)
        yield place.norm(f"{path}.1.layer_norm", width, bias=False)
    yield place.norm("encoder.final_layer_norm", width, bias=False)
