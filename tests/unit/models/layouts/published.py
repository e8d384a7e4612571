"""Configs of published transformers, where they differ from the defaults of their classes."""

from __future__ import annotations

from typing import Any

#: stem of the class and fields of the config, by model
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd3": ("SD3", {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}),
    "sd3.5 large": ("SD3", {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm", "pos_embed_max_size": 192}),
    "sd3.5 medium": ("SD3", {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "qk_norm": "rms_norm", "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13))}),
    "flux.1 dev": ("Flux", {"guidance_embeds": True}),
    "flux.1 schnell": ("Flux", {"guidance_embeds": False}),
    "flux.2 dev": ("Flux2", {}),
    "flux.2 klein": ("Flux2", {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False}),
    "chroma": ("Chroma", {}),
    "wan 2.1 1.3B": ("Wan", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "wan 2.1 and 2.2 14B": ("Wan", {}),
    "wan 2.1 from pictures": ("Wan", {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}),
    "wan 2.2 5B": ("Wan", {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48}),
    "qwen-image": ("QwenImage", {}),
    "z-image": ("ZImage", {}),
    "hunyuan video": ("HunyuanVideo", {}),
    "ltx video": ("LTXVideo", {}),
    "ltx video 13B": ("LTXVideo", {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48}),
    "lumina image 2": ("Lumina2", {"cap_feat_dim": 2304}),
    "hidream": ("HiDreamImage", {"in_channels": 16, "patch_size": 2, "caption_channels": [4096, 4096], "llama_layers": [*range(32), *[31] * 16]}),
    "auraflow": ("AuraFlow", {"pos_embed_max_size": 9216}),
    "sana 1.6B": ("Sana", {}),
    "sana 0.6B": ("Sana", {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72, "cross_attention_dim": 1152}),
    "sana sprint": ("Sana", {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}),
}  # fmt: skip


def class_name(stem: str) -> str:
    """Return the class of diffusers with this stem."""
    return f"{stem}Transformer{'3D' if stem in ('Wan', 'HunyuanVideo', 'LTXVideo') else '2D'}Model"
