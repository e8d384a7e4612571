"""Tiny random models as diffusers folders: real layer names, small widths, made in a second and without a network.

Their pictures are noise; what counts is that every layer, config field and file of the real model is there. The
same seed gives the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

# Models this small only lose time, a hundredfold on a busy machine, when threads wait for one another.
torch.set_num_threads(1)

#: Words that the tiny tokenizer knows as one token; everything else is spelled in letters.
WORDS = ("a", "red", "blue", "fox", "house", "ink", "style", "of", "on", "the", "photo", "hill")

SD15_UNET: Mapping[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
SDXL_UNET: Mapping[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": 32 + 48,
    "attention_head_dim": (2, 4, 4),
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 24,
}
VAE: Mapping[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
SCHEDULE: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    # not a field of every scheduler class, yet in the file of the real models, whence it reaches those that have it
    "clip_sample": False,
}


def tiny_sd15(folder: Path, seed: int = 0, *, family: str = "demo", **scheduler: Any) -> Path:
    """Write a Stable Diffusion 1.5 of 0.7 M weights to `folder` and return it.

    Pictures are 64 × 64 unless asked otherwise. `scheduler` fields go into scheduler_config.json, for instance
    `prediction_type="v_prediction"`. `family` is the mark in model_index.json; "" leaves it out.
    """
    words = write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _save(UNet2DConditionModel(**SD15_UNET), folder / "unet")
        _save(CLIPTextModel(_text_config(words, hidden=32, act="quick_gelu")), folder / "text_encoder")
        _save(AutoencoderKL(**VAE, scaling_factor=0.18215), folder / "vae")
    fields = {"set_alpha_to_one": False, "skip_prk_steps": True, **SCHEDULE, **scheduler}
    _write_scheduler(folder, "PNDMScheduler", fields)
    _write_index(
        folder,
        family,
        "StableDiffusionPipeline",
        {
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return folder


def tiny_sdxl(folder: Path, seed: int = 0, *, family: str = "sdxl", **scheduler: Any) -> Path:
    """Write a Stable Diffusion XL of 0.8 M weights to `folder` and return it; see `tiny_sd15`."""
    words = write_tokenizer(folder / "tokenizer", pad="<|endoftext|>")
    write_tokenizer(folder / "tokenizer_2", pad="!")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = _text_config(words, hidden=32, act="quick_gelu")
        second = _text_config(words, hidden=48, act="gelu", projection=24)
        _save(UNet2DConditionModel(**SDXL_UNET), folder / "unet")
        _save(CLIPTextModel(first), folder / "text_encoder")
        _save(CLIPTextModelWithProjection(second), folder / "text_encoder_2")
        _save(AutoencoderKL(**VAE, scaling_factor=0.13025, force_upcast=True), folder / "vae")
    fields = {"timestep_spacing": "leading", **SCHEDULE, **scheduler}
    _write_scheduler(folder, "EulerDiscreteScheduler", fields)
    _write_index(
        folder,
        family,
        "StableDiffusionXLPipeline",
        {
            "feature_extractor": [None, None],
            "force_zeros_for_empty_prompt": True,
            "image_encoder": [None, None],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return folder


def tiny_lora(path: Path, folder: Path, seed: int = 0, *, rank: int = 2, scale: float = 1.0) -> Path:
    """Write a random LoRA in kohya's names for the linear layers of the tiny model in `folder` and return `path`.

    It changes UNet and text encoders clearly at strength 1. `scale` multiplies its effect.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for prefix, module in _components(folder):
        for name, layer in module.named_modules():
            if not isinstance(layer, nn.Linear) or not any(
                part in name for part in ("attn", "ff.net", "mlp")
            ):
                continue
            key = f"{prefix}_{name.replace('.', '_')}"
            out, into = layer.weight.shape
            tensors[f"{key}.lora_down.weight"] = torch.randn(rank, into, generator=generator) / into**0.5
            tensors[f"{key}.lora_up.weight"] = torch.randn(out, rank, generator=generator) * (scale / rank)
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"ss_network_module": "networks.lora", "ss_output_name": path.stem})
    return path


def _components(folder: Path) -> list[tuple[str, nn.Module]]:
    """Return the modules of `folder` on the meta device, by kohya's prefix and with its `text_model` level."""
    two = (folder / "text_encoder_2").is_dir()
    found: list[tuple[str, nn.Module]] = []
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        found.append(("lora_unet", unet))
        for name, prefix in (
            ("text_encoder", "lora_te1" if two else "lora_te"),
            ("text_encoder_2", "lora_te2"),
        ):
            if (folder / name).is_dir():
                encoder = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / name))
                found.append((f"{prefix}_text_model", encoder.text_model))
    return found


def _save(module: Any, folder: Path) -> None:
    module.save_pretrained(folder, safe_serialization=True)


def _text_config(words: int, *, hidden: int, act: str, projection: int = 32) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=act,
        projection_dim=projection,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )


def _write_index(folder: Path, family: str, pipeline: str, parts: Mapping[str, Any]) -> None:
    index = {"_class_name": pipeline, "_diffusers_version": "0.36.0", **parts}
    if family:
        index["_farm_family"] = family
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _write_scheduler(folder: Path, class_name: str, fields: Mapping[str, Any]) -> None:
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    config = {"_class_name": class_name, "_diffusers_version": "0.36.0", **fields}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config, indent=2))


def write_tokenizer(folder: Path, *, pad: str) -> int:
    """Write CLIP's tokenizer files with all bytes and `WORDS`; return the number of tokens."""
    letters = [chr(code) for code in _printable_bytes()]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pair, joined = f"{pieces[0]} {pieces[1]}", pieces[0] + pieces[1]
            if pair not in merges:
                merges.append(pair)
            if joined not in tokens:
                tokens.append(joined)
            pieces[:2] = [joined]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return len(tokens)


def _printable_bytes() -> list[int]:
    """Return the code points by which byte-level BPE writes the 256 bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return plain + [256 + i for i in range(256 - len(plain))]
