"""Tiny tokenizers, made here without a download, and configs of tiny text encoders, for `tests.support.tiny_dit`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTokenizer, Qwen2Tokenizer, T5Tokenizer

from tests.support.tiny import WORDS, write_tokenizer

#: width of most text encoders
TEXT = 32
#: how Qwen3 writes a conversation
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    place = folder / "clip"
    write_tokenizer(place, pad="<|endoftext|>")
    return CLIPTokenizer.from_pretrained(place, local_files_only=True)


def clip_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_tokenizer() -> T5Tokenizer:
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    pieces += [("▁", -3.0), *((letter, -4.0) for letter in letters)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def t5_config(config: Any, width: int) -> Any:
    return config(
        vocab_size=128,
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    """All bytes, and the marks of a conversation."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<|im_start|>", "<|im_end|>"]
    tokens: Iterable[str] = (*letters, "<|endoftext|>")
    return Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        additional_special_tokens=marks,
        model_max_length=4096,
    )


def qwen_fields(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def rope(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, **fields}
