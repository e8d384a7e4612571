"""Tiny random pipelines of the transformer families: real classes and layer names, small widths, tokenizers made here.

Each builder returns diffusers' own pipeline object in memory, in float32; `write` saves it as a folder. The same seed
gives the same weights. Pictures are `SIZE` pixels a side unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.support.tiny_texts import (
    CHAT,
    TEXT,
    clip_config,
    clip_tokenizer,
    qwen_fields,
    qwen_tokenizer,
    rope,
    t5_config,
    t5_tokenizer,
)

SIZE = 32


def tiny_sd3(folder: Path, seed: int = 0, *, shifted: bool = False) -> Any:
    """Stable Diffusion 3.5: one block with a second attention. `shifted`: the schedule depends on the size."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    tokenizer = clip_tokenizer(folder)
    fields = {"use_dynamic_shifting": True} if shifted else {"shift": 3.0}
    pipeline = StableDiffusion3Pipeline(
        transformer=_filled(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(**fields),
        vae=_vae(),
        text_encoder=CLIPTextModelWithProjection(clip_config(tokenizer, 16)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer, 16)),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(t5_config(T5Config, 48)),
        tokenizer_3=t5_tokenizer(),
    )
    return _ready(pipeline)


def tiny_flux(folder: Path, seed: int = 0, *, told: bool = True) -> Any:
    """Flux.1 dev, or with `told=False` schnell, which takes no guidance and no shift by size."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=16,
        guidance_embeds=told,
        axes_dims_rope=(4, 6, 6),
    )
    tokenizer = clip_tokenizer(folder)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if told else 1.0, use_dynamic_shifting=told),
        vae=_vae(),
        text_encoder=CLIPTextModel(clip_config(tokenizer, 16)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5_config(T5Config, TEXT)),
        tokenizer_2=t5_tokenizer(),
        transformer=_filled(transformer),
    )
    return _ready(pipeline)


def tiny_qwenimage(folder: Path, seed: int = 0) -> Any:
    """Qwen-Image; its text encoder's eyes are there and never used."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        axes_dims_rope=(4, 6, 6),
    )
    config = Qwen2_5_VLConfig(
        text_config={**qwen_fields(tokenizer), "rope_parameters": rope({"mrope_section": [1, 1, 2]})},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": TEXT,
            "fullatt_block_indexes": [0],
        },
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.0, 0.3],
        latents_std=[1.1, 0.9, 1.5, 1.2],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    pipeline = QwenImagePipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        transformer=_filled(transformer),
    )
    return _ready(pipeline)


def tiny_zimage(folder: Path, seed: int = 0) -> Any:
    """Z-Image."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = CHAT
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=Qwen3Model(Qwen3Config(**qwen_fields(tokenizer), rope_parameters=rope({}))),
        tokenizer=tokenizer,
        transformer=_filled(transformer),
    )
    return _ready(pipeline)


def tiny_wan(folder: Path, seed: int = 0, *, boundary: float | None = 0.8, expand: bool = False) -> Any:
    """Wan 2.2 of two experts; with `boundary=None` Wan 2.1, with `expand` Wan 2.2 of 5 B and its times by patch."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.0, 0.3],
        latents_std=[1.1, 0.9, 1.5, 1.2],
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )
    experts = [
        _filled(
            WanTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=4,
                text_dim=TEXT,
                freq_dim=16,
                ffn_dim=32,
                num_layers=2,
                rope_max_seq_len=64,
            )
        )
        for _ in range(1 if boundary is None else 2)
    ]
    pipeline = WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=UMT5EncoderModel(t5_config(UMT5Config, TEXT)),
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        transformer=experts[0],
        transformer_2=None if boundary is None else experts[1],
        boundary_ratio=boundary,
        expand_timesteps=expand,
    )
    return _ready(pipeline)


#: builder of each family's usual model; the folder is for tokenizer files
BUILDERS: Mapping[str, Callable[[Path], Any]] = {
    "sd3": tiny_sd3,
    "flux1": tiny_flux,
    "qwenimage": tiny_qwenimage,
    "zimage": tiny_zimage,
    "wan": tiny_wan,
}


def write(family: str, folder: Path) -> Path:
    """Write the family's usual tiny model to `folder` as `from_pretrained` reads it, and return it."""
    pipeline = BUILDERS[family](folder)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _ready(pipeline: Any) -> Any:
    """Make the modules what `from_pretrained` makes of them: nothing drops out, nothing is trained."""
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            module.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _filled(module: nn.Module) -> Any:
    """Give weights that start as zeros a value, so that every layer counts in the picture."""
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return module


def _vae() -> AutoencoderKL:
    """A VAE that makes 2 pixels of each latent."""
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
