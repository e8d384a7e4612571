"""Tiny random models of the families that run through their diffusers pipeline, and of Stable Diffusion 2.

As in `tiny_dit`: real classes and layer names, small widths, tokenizers made here; the same seed gives the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from farm.lora.layout import Layout
from tests.support.tiny import SD15_UNET, VAE
from tests.support.tiny_dit import _filled, _vae
from tests.support.tiny_lm import (
    tiny_flux2,
    tiny_flux2_klein,
    tiny_hidream,
    tiny_hunyuanvideo,
    tiny_lumina2,
    tiny_sana,
)
from tests.support.tiny_texts import (
    TEXT,
    clip_config,
    clip_tokenizer,
    t5_config,
    t5_tokenizer,
)


def tiny_sd2(folder: Path, seed: int = 0) -> Any:
    """Stable Diffusion 2, which predicts velocities; its text is narrower than the real one's, so the folder is marked."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder)
    return StableDiffusionPipeline(
        unet=_filled(UNet2DConditionModel(**{**SD15_UNET, "use_linear_projection": True})),
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(clip_config(tokenizer, TEXT)),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            prediction_type="v_prediction",
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_chroma(folder: Path, seed: int = 0) -> Any:
    """Chroma."""
    torch.manual_seed(seed)
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=T5EncoderModel(t5_config(T5Config, TEXT)),
        tokenizer=t5_tokenizer(),
        transformer=_filled(transformer),
    )


def tiny_ltxv(folder: Path, seed: int = 0) -> Any:
    """LTX-Video."""
    torch.manual_seed(seed)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=TEXT,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        patch_size=4,
    )
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1),
        vae=vae,
        text_encoder=T5EncoderModel(t5_config(T5Config, TEXT)),
        tokenizer=t5_tokenizer(),
        transformer=_filled(transformer),
    )


def tiny_auraflow(folder: Path, seed: int = 0) -> Any:
    """AuraFlow."""
    torch.manual_seed(seed)
    transformer = AuraFlowTransformer2DModel(
        sample_size=16,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        caption_projection_dim=32,
        pos_embed_max_size=256,
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "norm1" in name:
                # no bias opens the gates of its blocks
                weight.mul_(5)
    return AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=UMT5EncoderModel(t5_config(UMT5Config, TEXT)),
        vae=_vae(),
        transformer=_filled(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A tiny model, and what is asked of it beside a prompt."""

    build: Callable[[Path], Any]
    family: str
    asked: Mapping[str, Any] = field(default_factory=lambda: {"width": 32, "height": 48})
    sampler: str = "flow_euler"


TINY: Mapping[str, Tiny] = {
    "sd2": Tiny(build=tiny_sd2, family="sd2", asked={"width": 64, "height": 64}, sampler="ddim"),
    "flux2": Tiny(build=tiny_flux2, family="flux2"),
    "flux2_klein": Tiny(build=tiny_flux2_klein, family="flux2"),
    "chroma": Tiny(build=tiny_chroma, family="chroma"),
    "hunyuanvideo": Tiny(
        build=tiny_hunyuanvideo,
        family="hunyuanvideo",
        asked={"width": 32, "height": 48, "frames": 9, "true_cfg_scale": 2.0},
    ),
    "ltxv": Tiny(build=tiny_ltxv, family="ltxv", asked={"width": 32, "height": 64, "frames": 9}),
    "lumina2": Tiny(build=tiny_lumina2, family="lumina2"),
    "hidream": Tiny(build=tiny_hidream, family="hidream", asked={"width": 32, "height": 32}),
    "auraflow": Tiny(build=tiny_auraflow, family="auraflow"),
    "sana": Tiny(build=tiny_sana, family="sana", asked={"width": 32, "height": 64}, sampler="dpmpp_2m"),
}


def write(name: str, folder: Path) -> Path:
    """Write the tiny model to `folder` as `from_pretrained` reads it, and return it."""
    TINY[name].build(folder).save_pretrained(folder, safe_serialization=True)
    if name == "sd2":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "_farm_family": "sd2"}))
    return folder


def random_lora(
    path: Path, layout: Layout, components: tuple[str, ...], *, strong: float = 2.0
) -> dict[str, tuple[Tensor, Tensor]]:
    """Write a LoRA in peft's names for three attention layers of each component; return its factors, up and down."""
    generator = torch.Generator().manual_seed(3)
    tensors, factors = {}, {}
    for component in components:
        linear = [
            layer
            for layer in layout.layers.values()
            if layer.component == component and layer.kind == "linear" and "att" in layer.path.lower()
        ]
        for layer in (linear[0], linear[len(linear) // 2], linear[-1]):
            out, into = layer.shape
            down = torch.randn(2, into, generator=generator) / into**0.5
            up = strong * torch.randn(out, 2, generator=generator)
            tensors |= {f"{layer.name}.lora_A.weight": down, f"{layer.name}.lora_B.weight": up}
            factors[layer.name] = (up, down)
    save_file(tensors, path, metadata={"format": "pt"})
    return factors
