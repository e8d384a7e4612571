"""Which base model an adapter was made for: from what its metadata say, checked against what its shapes prove."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from farm.lora.formats.header import TensorInfo

#: base model words and how people call them
FAMILY_NAMES: Mapping[str, str] = {
    "sd1": "SD 1.5", "sd2": "SD 2", "sdxl": "SDXL", "sd3": "SD 3", "flux1": "Flux.1", "flux2": "Flux.2",
    "chroma": "Chroma", "wan": "Wan", "qwenimage": "Qwen-Image", "zimage": "Z-Image", "hunyuanvideo": "HunyuanVideo",
    "ltxv": "LTX-Video", "lumina2": "Lumina 2", "hidream": "HiDream", "auraflow": "AuraFlow", "sana": "Sana",
    "demo": "the built-in demo model", "unknown": "an unknown model",
}  # fmt: skip
#: families whose denoiser is a UNet
UNETS = ("sd1", "sd2", "sdxl", "demo")

#: starts of `ss_base_model_version`; the first that fits counts
_VERSIONS: tuple[tuple[str, str], ...] = (
    ("sd_v1", "sd1"), ("sd1", "sd1"), ("sd_v2", "sd2"), ("sd2", "sd2"), ("sdxl", "sdxl"), ("sd3", "sd3"),
    ("flux2", "flux2"), ("flux.2", "flux2"), ("klein", "flux2"), ("flux", "flux1"), ("chroma", "chroma"),
    ("wan", "wan"), ("qwen", "qwenimage"), ("zimage", "zimage"), ("z-image", "zimage"), ("z_image", "zimage"),
    ("hunyuan_video", "hunyuanvideo"), ("hunyuanvideo", "hunyuanvideo"), ("ltx", "ltxv"), ("lumina", "lumina2"),
    ("hidream", "hidream"), ("auraflow", "auraflow"), ("sana", "sana"), ("demo", "demo"), ("farm-demo", "demo"),
)  # fmt: skip
#: starts of `modelspec.architecture`
_ARCHITECTURES: tuple[tuple[str, str], ...] = (
    ("stable-diffusion-v1", "sd1"), ("stable-diffusion-v2", "sd2"), ("stable-diffusion-xl", "sdxl"),
    ("stable-diffusion-3", "sd3"), ("flux-2", "flux2"), ("flux.2", "flux2"), ("flux-1", "flux1"), ("flux", "flux1"),
    ("chroma", "chroma"), ("lumina-2", "lumina2"), ("hunyuan-video", "hunyuanvideo"), ("wan", "wan"),
    ("qwen-image", "qwenimage"), ("z-image", "zimage"), ("ltx", "ltxv"), ("hidream", "hidream"),
    ("auraflow", "auraflow"), ("sana", "sana"), ("farm-demo", "demo"),
)  # fmt: skip
#: names of tensors that only one family has; rows above win over rows below
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (family, re.compile(pattern))
    for family, pattern in (
        ("flux2", r"(double|single)_stream_modulation"),
        ("chroma", r"distilled_guidance_layer"),
        ("sd3", r"joint_blocks|joint_transformer_blocks"),
        ("hunyuanvideo", r"double_blocks\.\d+\.(img|txt)_attn_qkv|individual_token_refiner"),
        ("flux1", r"(double|single)_blocks[._]\d|single_transformer_blocks"),
        ("qwenimage", r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp|img_mod|txt_mod)"),
        ("sd3", r"(?<!single_)transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj"),
        ("wan", r"blocks[._]\d+[._](self_attn|cross_attn|ffn)[._]"),
        ("zimage", r"(noise_refiner|context_refiner)[._]\d+[._]attention"),
        ("lumina2", r"(noise_refiner|context_refiner)[._]\d"),
        ("sdxl", r"label_emb|add_embedding|input_blocks_[78]_1_transformer_blocks_[1-9]"),
        ("sdxl", r"down_blocks[._]2[._]attentions[._]\d[._]transformer_blocks[._][1-9]"),
        (
            "sdxl",
            r"^lora_te2_text_model|^(base_model\.model\.)?text_encoder_2\.(base_model\.model\.)?text_model",
        ),
    )
)
#: values that cross-attention reads from the text encoder
_WIDTHS: Mapping[int, str] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_CROSS = re.compile(r"attn2[._]to_[kv]$")


def family_name(family: str) -> str:
    return FAMILY_NAMES.get(family, family)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """The verdict, and a sentence when metadata and shapes disagree."""

    family: str
    problem: str = ""


def base_model(
    metadata: Mapping[str, str], modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, TensorInfo]
) -> BaseModel:
    """Base model of a file; `unknown` when nothing tells. A contradicting cross-attention width beats the metadata."""
    said = _said(metadata)
    width = cross_attention_width(modules, tensors)
    proved = _WIDTHS.get(width) if width else None
    if said and proved and proved != said and said in ("sd1", "sd2", "sdxl"):
        return BaseModel(
            family=proved,
            problem=f"its metadata say {family_name(said)}, but its cross-attention reads {width} values, as in "
            f"{family_name(proved)}",
        )
    return BaseModel(family=said or _named(modules) or proved or _hinted(metadata) or "unknown")


def cross_attention_width(
    modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, TensorInfo]
) -> int | None:
    """Values that the cross-attention of the file's model reads; None when no tensor shows it."""
    for module, keys in modules.items():
        if _CROSS.search(module):
            width = in_features({suffix: tensors[key].shape for suffix, key in keys.items()})
            if width:
                return width
    return None


def in_features(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Inputs of a linear layer as the shapes of its adapter show them."""
    for suffix in ("lora_down", "diff", "hada_w1_b"):
        if len(shapes.get(suffix, ())) >= 2:
            return shapes[suffix][1]
    if len(shapes.get("a2", ())) >= 2 and "b2" in shapes:
        return max(shapes["b2"][:2])
    first = shapes.get("lokr_w1") or shapes.get("lokr_w1_b")
    second = shapes.get("lokr_w2") or shapes.get("lokr_w2_b")
    if first and second and len(first) >= 2 and len(second) >= 2:
        return first[1] * second[1]
    return None


def _said(metadata: Mapping[str, str]) -> str | None:
    version = metadata.get("ss_base_model_version", "").strip().lower()
    architecture = metadata.get("modelspec.architecture", "").strip().lower()
    return (
        _starting(version, _VERSIONS)
        or _starting(architecture, _ARCHITECTURES)
        or ("sd2" if metadata.get("ss_v2", "").strip().lower() == "true" else None)
    )


def _hinted(metadata: Mapping[str, str]) -> str | None:
    """Weak hints: names that people gave to files."""
    name = metadata.get("ss_sd_model_name", "").lower()
    if "xl" in name:
        return "sdxl"
    return "sd1" if "v1-5" in name or "v1.5" in name or "sd15" in name else None


def _starting(text: str, table: Iterable[tuple[str, str]]) -> str | None:
    return next((family for start, family in table if text.startswith(start)), None) if text else None


def _named(modules: Iterable[str]) -> str | None:
    names = tuple(modules)
    return next((family for family, sign in _NAMES if any(sign.search(name) for name in names)), None)
