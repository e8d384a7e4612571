"""The pipelines that Farm runs: their families, parts, and what a job gets where it says nothing. Tables, without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from farm.models.layouts.blocks import Config

_CLIP, _CLIP_PROJECTED, _T5, _UMT5 = (
    ("CLIPTextModel",),
    ("CLIPTextModelWithProjection",),
    ("T5EncoderModel",),
    ("UMT5EncoderModel",),
)
_GEMMA, _QWEN3 = ("Gemma2Model", "Gemma2ForCausalLM"), ("Qwen3Model", "Qwen3ForCausalLM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Other defaults for models of a family whose configs tell that they are made differently."""

    #: called with the configs by component and with model_index.json
    when: Callable[[Mapping[str, Config], Config], bool]
    defaults: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One class of diffusers pipelines."""

    #: a `base_model` word; None where the width of the text decides, as for UNets
    family: str | None
    #: class that each denoiser must be, and their components in the order of a run
    denoiser: str
    denoisers: tuple[str, ...] = ("transformer",)
    #: classes that each text encoder may be, by component in order
    encoders: Mapping[str, tuple[str, ...]]
    vae: str = "AutoencoderKL"
    #: parts that a folder may leave out
    optional: tuple[str, ...] = ()
    #: sampler of a folder whose scheduler is none of those that fit
    sampler: str = "flow_euler"
    video: bool = False
    #: latents that the denoiser reads as one along each side: sizes are multiples of it
    patch: int = 2
    #: patches along a side that a denoiser with this whole config has positions for, where that is bounded
    positions: Callable[[Config], int] | None = None
    #: patches of a picture that it has room for in all, where that is bounded
    room: Callable[[Config], int] | None = None
    #: channels that the denoiser takes for each one of the latents: 4 where patches are packed beforehand
    packed: int = 1
    #: what a job gets; no width and height here means those of the denoiser's `sample_size`
    defaults: Mapping[str, Any]
    variants: tuple[Variant, ...] = field(default=())

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Classes that each part with weights may be, by component, text encoders first."""
        return {
            **self.encoders,
            **dict.fromkeys(self.denoisers, (self.denoiser,)),
            "vae": (self.vae,),
        }


def _is_lcm(configs: Mapping[str, Config]) -> bool:
    return configs["scheduler"].get("_class_name") == "LCMScheduler"


def _square(side: int) -> dict[str, int]:
    return {"width": side, "height": side}


_UNET = Pipeline(
    family=None,
    denoiser="UNet2DConditionModel",
    denoisers=("unet",),
    encoders={"text_encoder": _CLIP},
    sampler="dpmpp_2m",
    patch=1,
    defaults={"steps": 25, "guidance_scale": 7.5},
    # consistency models; some are told the guidance, as an input
    variants=(
        Variant(when=lambda configs, _: _is_lcm(configs), defaults={"steps": 6, "guidance_scale": 1.0}),
        Variant(
            when=lambda configs, _: (
                _is_lcm(configs) and configs["unet"].get("time_cond_proj_dim") is not None
            ),
            defaults={"guidance_scale": 8.5},
        ),
    ),
)
_SDXL = replace(
    _UNET,
    encoders={"text_encoder": _CLIP, "text_encoder_2": _CLIP_PROJECTED},
    defaults={"steps": 25, "guidance_scale": 5.0},
)
_FLUX2 = Pipeline(
    family="flux2",
    denoiser="Flux2Transformer2DModel",
    encoders={"text_encoder": ("Mistral3ForConditionalGeneration",)},
    vae="AutoencoderKLFlux2",
    packed=4,
    defaults={**_square(1024), "steps": 50, "guidance_scale": 4.0},
)
PIPELINES: Mapping[str, Pipeline] = {
    "StableDiffusionPipeline": _UNET,
    "LatentConsistencyModelPipeline": _UNET,
    "StableDiffusionXLPipeline": _SDXL,
    "StableDiffusion3Pipeline": Pipeline(
        family="sd3",
        denoiser="SD3Transformer2DModel",
        encoders={
            "text_encoder": _CLIP_PROJECTED,
            "text_encoder_2": _CLIP_PROJECTED,
            "text_encoder_3": _T5,
        },
        optional=("text_encoder_3",),
        positions=lambda config: int(config["pos_embed_max_size"]),
        defaults={"steps": 28, "guidance_scale": 7.0},
        # 3.5, which norms queries and keys, wants less
        variants=(
            Variant(
                when=lambda configs, _: bool(configs["transformer"].get("qk_norm")),
                defaults={"guidance_scale": 4.5},
            ),
        ),
    ),
    "FluxPipeline": Pipeline(
        family="flux1",
        denoiser="FluxTransformer2DModel",
        encoders={"text_encoder": _CLIP, "text_encoder_2": _T5},
        packed=4,
        defaults={**_square(1024), "steps": 28, "guidance_scale": 3.5},
        # schnell: distilled to few steps, and not told the guidance
        variants=(
            Variant(
                when=lambda configs, _: not configs["transformer"].get("guidance_embeds", False),
                defaults={"steps": 4, "guidance_scale": 0.0},
            ),
        ),
    ),
    "Flux2Pipeline": _FLUX2,
    "Flux2KleinPipeline": replace(
        _FLUX2,
        encoders={"text_encoder": _QWEN3},
        variants=(
            Variant(
                when=lambda _, index: bool(index.get("is_distilled")),
                defaults={"steps": 4, "guidance_scale": 1.0},
            ),
        ),
    ),
    "ChromaPipeline": Pipeline(
        family="chroma",
        denoiser="ChromaTransformer2DModel",
        encoders={"text_encoder": _T5},
        packed=4,
        defaults={**_square(1024), "steps": 35, "guidance_scale": 5.0},
    ),
    "WanPipeline": Pipeline(
        family="wan",
        denoiser="WanTransformer3DModel",
        denoisers=("transformer", "transformer_2"),
        encoders={"text_encoder": _UMT5},
        vae="AutoencoderKLWan",
        optional=("transformer_2",),
        video=True,
        defaults={
            "width": 832,
            "height": 480,
            "frames": 81,
            "fps": 16.0,
            "steps": 50,
            "guidance_scale": 5.0,
        },
        variants=(
            Variant(
                when=lambda configs, _: "transformer_2" in configs,
                defaults={"steps": 40, "guidance_scale": 4.0},
            ),
            # 2.2 of 5 billion parameters, whose latents stand for 16 pixels
            Variant(
                when=lambda configs, _: configs["vae"].get("scale_factor_spatial", 8) == 16,
                defaults={"width": 1280, "height": 704, "frames": 121, "fps": 24.0},
            ),
        ),
    ),
    "QwenImagePipeline": Pipeline(
        family="qwenimage",
        denoiser="QwenImageTransformer2DModel",
        encoders={"text_encoder": ("Qwen2_5_VLForConditionalGeneration",)},
        vae="AutoencoderKLQwenImage",
        packed=4,
        defaults={**_square(1024), "steps": 50, "guidance_scale": 4.0},
    ),
    "ZImagePipeline": Pipeline(
        family="zimage",
        denoiser="ZImageTransformer2DModel",
        encoders={"text_encoder": _QWEN3},
        # those of Z-Image-Turbo: nothing in a folder tells it from Z-Image
        defaults={**_square(1024), "steps": 9, "guidance_scale": 0.0},
    ),
    "HunyuanVideoPipeline": Pipeline(
        family="hunyuanvideo",
        denoiser="HunyuanVideoTransformer3DModel",
        encoders={"text_encoder": ("LlamaModel",), "text_encoder_2": _CLIP},
        vae="AutoencoderKLHunyuanVideo",
        video=True,
        defaults={
            "width": 832,
            "height": 480,
            "frames": 61,
            "fps": 24.0,
            "steps": 50,
            "guidance_scale": 6.0,
        },
    ),
    "LTXPipeline": Pipeline(
        family="ltxv",
        denoiser="LTXVideoTransformer3DModel",
        encoders={"text_encoder": _T5},
        vae="AutoencoderKLLTXVideo",
        video=True,
        patch=1,
        defaults={
            "width": 704,
            "height": 480,
            "frames": 161,
            "fps": 25.0,
            "steps": 50,
            "guidance_scale": 3.0,
        },
    ),
    "Lumina2Pipeline": Pipeline(
        family="lumina2",
        denoiser="Lumina2Transformer2DModel",
        encoders={"text_encoder": _GEMMA},
        defaults={**_square(1024), "steps": 30, "guidance_scale": 4.0},
    ),
    "HiDreamImagePipeline": Pipeline(
        family="hidream",
        denoiser="HiDreamImageTransformer2DModel",
        encoders={
            "text_encoder": _CLIP_PROJECTED,
            "text_encoder_2": _CLIP_PROJECTED,
            "text_encoder_3": _T5,
            "text_encoder_4": ("LlamaForCausalLM",),
        },
        room=lambda config: math.prod(config["max_resolution"]) // int(config["patch_size"]) ** 2,
        defaults={**_square(1024), "steps": 50, "guidance_scale": 5.0},
    ),
    "AuraFlowPipeline": Pipeline(
        family="auraflow",
        denoiser="AuraFlowTransformer2DModel",
        encoders={"text_encoder": _UMT5},
        # a square table
        positions=lambda config: math.isqrt(config["pos_embed_max_size"]),
        defaults={**_square(1024), "steps": 50, "guidance_scale": 3.5},
    ),
    "SanaPipeline": Pipeline(
        family="sana",
        denoiser="SanaTransformer2DModel",
        encoders={"text_encoder": _GEMMA},
        vae="AutoencoderDC",
        patch=1,
        defaults={"steps": 20, "guidance_scale": 4.5},
    ),
}
