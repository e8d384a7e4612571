"""Model folders without weights: configs as published, empty files where weights and vocabularies would be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.unit.models.layouts.published import TRANSFORMERS, class_name

CLIP = ("CLIPTextModel", {"num_hidden_layers": 1})
CLIP_PROJECTED = ("CLIPTextModelWithProjection", {"num_hidden_layers": 1})
T5 = ("T5EncoderModel", {"num_layers": 1})
UMT5 = ("UMT5EncoderModel", {"num_layers": 1})
GEMMA = ("Gemma2Model", {"num_hidden_layers": 1})
QWEN3 = ("Qwen3ForCausalLM", {"num_hidden_layers": 1})
QWEN_VL = ("Qwen2_5_VLForConditionalGeneration", {"text_config": {"num_hidden_layers": 1}})
MISTRAL = ("Mistral3ForConditionalGeneration", {"text_config": {"num_hidden_layers": 1, "model_type": "mistral"}})  # fmt: skip
LLAMA = ("LlamaModel", {"num_hidden_layers": 1})
LLAMA_HEAD = ("LlamaForCausalLM", {"num_hidden_layers": 1})
_LEVELS = {"block_out_channels": [128, 256, 512, 512]}
KL4 = ("AutoencoderKL", {**_LEVELS, "latent_channels": 4})
KL16 = ("AutoencoderKL", {**_LEVELS, "latent_channels": 16})
_EULER: tuple[str, Mapping[str, Any]] = ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000})
_UNIPC = ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 3.0})
#: files of a tokenizer by the class of its text encoder
TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "CLIPTextModel": ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"),
    "CLIPTextModelWithProjection": ("vocab.json", "merges.txt", "tokenizer_config.json"),
    "T5EncoderModel": ("spiece.model", "tokenizer.json", "tokenizer_config.json"),
    "UMT5EncoderModel": ("spiece.model", "tokenizer_config.json"),
    "Gemma2Model": ("tokenizer.model", "tokenizer_config.json"),
    "Qwen3ForCausalLM": ("tokenizer.json", "chat_template.jinja", "added_tokens.json"),
    "Qwen2_5_VLForConditionalGeneration": ("vocab.json", "merges.txt", "chat_template.jinja"),
    "Mistral3ForConditionalGeneration": ("tokenizer.json", "processor_config.json", "preprocessor_config.json", "chat_template.json"),
    "LlamaModel": ("tokenizer.json", "special_tokens_map.json"),
    "LlamaForCausalLM": ("tokenizer.json",),
}  # fmt: skip


@dataclass(frozen=True)
class Hollow:
    """What a folder says of itself."""

    pipeline: str
    #: a row of TRANSFORMERS
    transformer: str
    encoders: tuple[tuple[str, Mapping[str, Any]], ...]
    vae: tuple[str, Mapping[str, Any]]
    scheduler: tuple[str, Mapping[str, Any]] = _EULER
    experts: int = 1
    #: more of model_index.json
    index: Mapping[str, Any] = field(default_factory=dict)


MODELS: Mapping[str, Hollow] = {
    "sd3": Hollow("StableDiffusion3Pipeline", "sd3", (CLIP_PROJECTED, CLIP_PROJECTED, T5), KL16),
    "sd3.5 large": Hollow("StableDiffusion3Pipeline", "sd3.5 large", (CLIP_PROJECTED, CLIP_PROJECTED, T5), KL16),
    "flux.1 dev": Hollow("FluxPipeline", "flux.1 dev", (CLIP, T5), KL16),
    "flux.1 schnell": Hollow("FluxPipeline", "flux.1 schnell", (CLIP, T5), KL16),
    "flux.2 dev": Hollow("Flux2Pipeline", "flux.2 dev", (MISTRAL,), ("AutoencoderKLFlux2", {})),
    "flux.2 klein": Hollow("Flux2KleinPipeline", "flux.2 klein", (QWEN3,), ("AutoencoderKLFlux2", {}), index={"is_distilled": True}),
    "chroma": Hollow("ChromaPipeline", "chroma", (T5,), KL16),
    "wan 2.1": Hollow("WanPipeline", "wan 2.1 1.3B", (UMT5,), ("AutoencoderKLWan", {}), _UNIPC),
    "wan 2.2": Hollow("WanPipeline", "wan 2.1 and 2.2 14B", (UMT5,), ("AutoencoderKLWan", {}), _UNIPC, 2, {"boundary_ratio": 0.875}),
    "wan 2.2 5B": Hollow("WanPipeline", "wan 2.2 5B", (UMT5,), ("AutoencoderKLWan", {"z_dim": 48, "scale_factor_spatial": 16}), _UNIPC, index={"expand_timesteps": True}),
    "qwen-image": Hollow("QwenImagePipeline", "qwen-image", (QWEN_VL,), ("AutoencoderKLQwenImage", {})),
    "z-image": Hollow("ZImagePipeline", "z-image", (QWEN3,), KL16),
    "hunyuan video": Hollow("HunyuanVideoPipeline", "hunyuan video", (LLAMA, CLIP), ("AutoencoderKLHunyuanVideo", {})),
    "ltx video": Hollow("LTXPipeline", "ltx video", (T5,), ("AutoencoderKLLTXVideo", {})),
    "lumina image 2": Hollow("Lumina2Pipeline", "lumina image 2", (GEMMA,), KL16),
    "hidream": Hollow("HiDreamImagePipeline", "hidream", (CLIP_PROJECTED, CLIP_PROJECTED, T5, LLAMA_HEAD), KL16),
    "auraflow": Hollow("AuraFlowPipeline", "auraflow", (UMT5,), KL4),
    "sana 1.6B": Hollow("SanaPipeline", "sana 1.6B", (GEMMA,), ("AutoencoderDC", {}), ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True})),
}  # fmt: skip


def write(folder: Path, model: Hollow) -> Path:
    """Write the folder; each part is in shards, as large ones are."""
    stem, config = TRANSFORMERS[model.transformer]
    parts = {
        **{_numbered("transformer", n): (class_name(stem), config) for n in range(model.experts)},
        **{_numbered("text_encoder", n): encoder for n, encoder in enumerate(model.encoders)},
        "vae": model.vae,
    }
    index: dict[str, Any] = {"_class_name": model.pipeline, **model.index}
    for name, (part, fields) in parts.items():
        text = name.startswith("text_encoder")
        index[name] = ["transformers" if text else "diffusers", part]
        _write_part(folder / name, "model" if text else "diffusion_pytorch_model", {**fields})
        if text:
            tokenizer = name.replace("text_encoder", "tokenizer")
            index[tokenizer] = ["transformers", "AutoTokenizer"]
            for file in TOKENIZERS[part]:
                _touch(folder / tokenizer / file)
    # what pipelines name and Farm needs not
    index |= {"image_encoder": [None, None], "feature_extractor": ["transformers", "CLIPImageProcessor"]}
    _touch(folder / "feature_extractor" / "preprocessor_config.json")
    scheduler, fields = model.scheduler
    index["scheduler"] = ["diffusers", scheduler]
    _write(folder / "scheduler" / "scheduler_config.json", {"_class_name": scheduler, **fields})
    _write(folder / "model_index.json", index)
    return folder


def _write_part(folder: Path, stem: str, config: Mapping[str, Any]) -> None:
    _write(folder / "config.json", config)
    shards = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    _write(folder / f"{stem}.safetensors.index.json", {"weight_map": dict(zip("ab", shards, strict=True))})
    for shard in shards:
        _touch(folder / shard)


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name}_{number + 1}"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
