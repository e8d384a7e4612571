"""Layers of the language models that newer pipelines read their prompts with, from their config.

Llama, Gemma 2, Qwen 3, and the language halves of Qwen 2.5 VL and Mistral 3. Left out is what a prompt never passes: the
halves that see pictures, and the head that would say the next word (it often shares its weight with the embedding).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from farm.errors import BadRequest
from farm.lora.layout import Layer
from farm.models.layouts.blocks import Config, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One architecture of language models."""

    #: `model_type` of the (text) config
    types: tuple[str, ...]
    #: what the config's class has where a config says nothing
    defaults: Mapping[str, Any]
    #: path of the language model in the component
    prefix: str = ""
    #: RMSNorms of queries and keys
    qk_norm: bool = False
    #: the norms of a block
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    #: biases of queries, keys and values, whatever the config says
    qkv_bias: bool = False


LLAMA = Kind(
    types=("llama",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
)
GEMMA2 = Kind(
    types=("gemma2",),
    defaults={
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
    },
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
)
QWEN3 = Kind(
    types=("qwen3",),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
    },
    qk_norm=True,
)
QWEN25_VL = Kind(
    types=("qwen2_5_vl_text", "qwen2_5_vl"),
    defaults={
        "vocab_size": 152064,
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
    prefix="model.language_model.",
    qkv_bias=True,
)
MISTRAL3 = Kind(
    types=("mistral",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    prefix="model.language_model.",
)
#: class of the component, as transformers names it
CLASSES: Mapping[str, Kind] = {
    "LlamaModel": LLAMA,
    "LlamaForCausalLM": replace(LLAMA, prefix="model."),
    "Gemma2Model": GEMMA2,
    "Gemma2ForCausalLM": replace(GEMMA2, prefix="model."),
    "Qwen3Model": QWEN3,
    "Qwen3ForCausalLM": replace(QWEN3, prefix="model."),
    "Qwen2_5_VLForConditionalGeneration": QWEN25_VL,
    "Mistral3ForConditionalGeneration": MISTRAL3,
}


def layers(config: Config, component: str, *, kind: Kind) -> Iterator[Layer]:
    """Yield every layer that a prompt passes.

    A model that also sees pictures keeps the fields of its language half in `text_config`, older files beside it.

    Raises:
        BadRequest: the language half is of another architecture.
    """
    text = config.get("text_config") or {}
    full = {**kind.defaults, **config, **text}
    if full.get("model_type", kind.types[0]) not in kind.types:
        raise BadRequest(
            f"{component} config: model_type is {full['model_type']!r}, Farm knows {' or '.join(kind.types)}",
            code="unsupported_model",
        )
    place = Place(component, "all")
    width, heads = full["hidden_size"], full["num_attention_heads"]
    yield place.embedding(f"{kind.prefix}embed_tokens", full["vocab_size"], width)
    for number in range(full["num_hidden_layers"]):
        path = f"{kind.prefix}layers.{number}"
        yield from _attention(place, f"{path}.self_attn", width, heads, full, kind)
        bias, inner = bool(full.get("mlp_bias", False)), full["intermediate_size"]
        yield place.linear(f"{path}.mlp.gate_proj", width, inner, bias=bias)
        yield place.linear(f"{path}.mlp.up_proj", width, inner, bias=bias)
        yield place.linear(f"{path}.mlp.down_proj", inner, width, bias=bias)
        for name in kind.norms:
            yield place.norm(f"{path}.{name}", width, bias=False)
    yield place.norm(f"{kind.prefix}norm", width, bias=False)


def _attention(place: Place, path: str, width: int, heads: int, full: Config, kind: Kind) -> Iterator[Layer]:
    head = full.get("head_dim") or width // heads
    shared = head * (full.get("num_key_value_heads") or heads)
    bias = bool(full.get("attention_bias", False))
    for name, out in (("q_proj", head * heads), ("k_proj", shared), ("v_proj", shared)):
        yield place.linear(f"{path}.{name}", width, out, bias=bias or kind.qkv_bias)
    yield place.linear(f"{path}.o_proj", head * heads, width, bias=bias)
    if kind.qk_norm:
        yield place.norm(f"{path}.q_norm", head, bias=False)
        yield place.norm(f"{path}.k_norm", head, bias=False)
