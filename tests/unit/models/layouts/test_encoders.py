"""Layers of text encoders made from configs are those of transformers' own modules, less what a prompt never passes."""

from typing import Any

import pytest
import torch
import transformers

from farm.errors import BadRequest
from farm.models.layouts.classes import ENCODERS
from farm.models.layouts.known import SD15, SDXL
from tests.unit.models.layouts.oracle import described, weighted

#: parts that are laid out nowhere: heads, eyes, and a second name of the embedding
LEFT_OUT = (
    "lm_head",
    "model.visual.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "encoder.embed_tokens",
)
_TEXT = {"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 90}  # fmt: skip
_EYES = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 48, "intermediate_size": 48}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip of sd 1.5": ("CLIPTextModel", "CLIPTextConfig", dict(SD15["text_encoder"])),
    "clip of sdxl": ("CLIPTextModelWithProjection", "CLIPTextConfig", dict(SDXL["text_encoder_2"])),
    "small clip": ("CLIPTextModel", "CLIPTextConfig", {"num_hidden_layers": 2}),
    "small clip with projection": ("CLIPTextModelWithProjection", "CLIPTextConfig", {"num_hidden_layers": 2}),
    "t5 xxl": ("T5EncoderModel", "T5Config", {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu"}),
    "t5": ("T5EncoderModel", "T5Config", {"d_model": 20, "d_kv": 8, "num_heads": 3, "num_layers": 2, "relative_attention_num_buckets": 16}),
    "umt5 xxl": ("UMT5EncoderModel", "UMT5Config", {"vocab_size": 256384, "d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24}),
    "umt5": ("UMT5EncoderModel", "UMT5Config", {}),
    "llama": ("LlamaModel", "LlamaConfig", {**_TEXT, "attention_bias": True, "mlp_bias": True}),
    "llama 3.1 8B": ("LlamaForCausalLM", "LlamaConfig", {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8}),
    "llama of the first kind": ("LlamaForCausalLM", "LlamaConfig", {"num_hidden_layers": 1}),
    "gemma 2 2B": ("Gemma2Model", "Gemma2Config", {}),
    "gemma 2": ("Gemma2ForCausalLM", "Gemma2Config", {**_TEXT, "head_dim": 10}),
    "qwen 3 4B": ("Qwen3Model", "Qwen3Config", {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_key_value_heads": 8}),
    "qwen 3": ("Qwen3ForCausalLM", "Qwen3Config", {**_TEXT, "head_dim": 10}),
    "qwen 2.5 vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", {"text_config": _TEXT, "vision_config": _EYES}),
    "qwen 2.5 vl 7B": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", {"text_config": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}, "vision_config": {**_EYES, "out_hidden_size": 3584}}),
    "mistral 3 small": ("Mistral3ForConditionalGeneration", "Mistral3Config", {"text_config": {"model_type": "mistral", "vocab_size": 131072, "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40, "head_dim": 128}, "vision_config": {"model_type": "pixtral", "num_hidden_layers": 1}}),
}  # fmt: skip


def make(name: str) -> tuple[str, dict[str, Any], torch.nn.Module]:
    """Return class, config as its file holds it and module of a case."""
    class_name, config_name, fields = CASES[name]
    fields = {key: value for key, value in fields.items() if key != "_class_name"}
    config = getattr(transformers, config_name)(**fields)
    with torch.device("meta"):
        module = getattr(transformers, class_name)(config)
    return class_name, config.to_dict(), module


@pytest.mark.parametrize("name", CASES)
def test_layers_are_those_of_the_module(name: str) -> None:
    class_name, config, module = make(name)
    expected = {path: found for path, found in weighted(module).items() if not path.startswith(LEFT_OUT)}
    found = list(ENCODERS[class_name](config, "text_encoder_2"))
    assert described(found) == expected
    assert {(layer.component, layer.block, layer.index) for layer in found} == {("text_encoder_2", "all", -1)}


def test_fields_that_a_config_lacks_have_the_defaults_of_its_class() -> None:
    for name in ("small clip", "t5", "umt5", "llama of the first kind", "gemma 2 2B", "qwen 3 4B"):
        class_name, _, fields = CASES[name]
        _, whole, _ = make(name)
        assert list(ENCODERS[class_name](fields, "te")) == list(ENCODERS[class_name](whole, "te"))


def test_a_language_half_may_lie_beside_its_config() -> None:
    class_name, config, _ = make("qwen 2.5 vl")
    beside = {**config["text_config"], "model_type": "qwen2_5_vl"}
    assert list(ENCODERS[class_name](beside, "te")) == list(ENCODERS[class_name](config, "te"))


def test_another_architecture_is_refused_by_name() -> None:
    config = {"text_config": {"model_type": "llama"}}
    with pytest.raises(BadRequest, match="te config: model_type is 'llama', Farm knows mistral"):
        list(ENCODERS["Mistral3ForConditionalGeneration"](config, "te"))
