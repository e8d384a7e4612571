"""Which base model an adapter was made for: from what its metadata say, checked against what its shapes prove."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from farm.lora.formats.header import TensorInfo
from farm.lora.formats.schemes.address import DENOISER, address

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
    ("stable-diffusion-3", "sd3"), ("flux-2", "flux2"), ("flux.2", "flux2"), ("flux2", "flux2"), ("flux-1", "flux1"), ("flux", "flux1"),
    ("chroma", "chroma"), ("lumina-2", "lumina2"), ("hunyuan-video", "hunyuanvideo"), ("wan", "wan"),
    ("qwen-image", "qwenimage"), ("z-image", "zimage"), ("ltx", "ltxv"), ("hidream", "hidream"),
    ("auraflow", "auraflow"), ("sana", "sana"), ("farm-demo", "demo"),
)  # fmt: skip
#: names of modules that only one family has, as `component:flattened path`; rows above win over rows below
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (family, re.compile(pattern))
    for family, pattern in (
        ("hidream", r":(double|single)_stream_blocks_"),
        (
            "flux2",
            r"(double|single)_stream_modulation|to_qkv_mlp_proj|time_guidance_embed|_ff(_context)?_linear_(in|out)",
        ),
        ("chroma", r"distilled_guidance_layer"),
        ("auraflow", r":joint_transformer_blocks_|:double_layers_|:single_layers_\d+_(attn_w|mlp_c|modCX)"),
        ("auraflow", r":single_transformer_blocks_\d+_ff_"),
        ("sd3", r":joint_blocks_"),
        (
            "hunyuanvideo",
            r"token_refiner|:double_blocks_\d+_(img|txt)_(mlp_fc|mod_linear)|:single_blocks_\d+_modulation_linear",
        ),
        ("qwenimage", r":transformer_blocks_\d+_(img|txt)_(mlp|mod)_"),
        ("flux1", r":(double|single)_blocks_\d|:single_transformer_blocks_"),
        ("sd3", r":pos_embed_|:transformer_blocks_\d+_(attn_add_|attn_to_add_out|ff_context_|norm1_context)"),
        (
            "sana",
            r":transformer_blocks_\d+_ff_conv_|:blocks_\d+_(attn_qkv|cross_attn_(q|kv)_linear|mlp_\w+_conv)|:caption_norm",
        ),
        (
            "ltxv",
            r":(patchify_proj|adaln_single)|:transformer_blocks_\d+_attn1_",
        ),
        (
            "wan",
            r":blocks_\d+_((self|cross)_attn_(q|k|v|o|k_img|v_img|norm_q|norm_k)$|attn[12]_|ffn_)|:condition_embedder_",
        ),
        (
            "zimage",
            r":(layers|\w+_refiner)_\d+_(attention_(to_|norm_)|adaLN_modulation_0)|:all_(x_embedder|final_layer)_",
        ),
        (
            "lumina2",
            r":(layers|\w+_refiner)_\d+_(attn_|norm1_|feed_forward_linear_|adaLN_modulation_1)|:time_caption_embed_",
        ),
        ("zimage", r":(noise|context)_refiner_\d+_attention"),
        ("sdxl", r":label_emb|:add_embedding|:input_blocks_[78]_1_transformer_blocks_[1-9]"),
        ("sdxl", r":down_blocks_2_attentions_\d_transformer_blocks_[1-9]"),
        ("sdxl", r"^text_encoder_2:(base_model_model_)?text_model"),
    )
)
#: what so many inputs prove of modules whose names families share: the words of all families that have it, the guess first
_WIDTHS: tuple[tuple[re.Pattern[str], dict[int, str]], ...] = tuple(
    (re.compile(pattern), widths)
    for pattern, widths in (
        (r":(?!(single_)?transformer_blocks|blocks).*attn2_to_[kv]$", {768: "sd1", 1024: "sd2", 2048: "sdxl"}),
        (r":(layers|\w+_refiner)_\d+_attention_(qkv|out|to_\w+)$", {3840: "zimage", 2304: "lumina2"}),
        (r":transformer_blocks_\d+_attn_(to|add)_[qkv](_proj)?$",
         {1536: "sd3", 2432: "sd3", 3072: "flux1 qwenimage chroma hunyuanvideo flux2"}),
        (r":transformer_blocks_\d+_attn[12]_to_[qkv]$", {2048: "ltxv", 4096: "ltxv", 2240: "sana", 1152: "sana"}),
    )
)  # fmt: skip
#: the same for outputs by inputs
_RATIOS: tuple[tuple[re.Pattern[str], dict[float, str]], ...] = tuple(
    (re.compile(pattern), ratios)
    for pattern, ratios in (
        (r":single_blocks_\d+_linear1$", {9.0: "flux2", 7.0: "flux1 chroma hunyuanvideo"}),
        (r":single_blocks_\d+_linear2$", {0.25: "flux2", 0.2: "flux1 chroma hunyuanvideo"}),
        (r":double_blocks_\d+_(img|txt)_mlp_0$", {6.0: "flux2", 4.0: "flux1 chroma hunyuanvideo"}),
    )
)
#: no Flux.1 and no Chroma has so many blocks
_MANY: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("hunyuanvideo", re.compile(r":double_blocks_19_|:single(_transformer)?_blocks_39_")),
    ("qwenimage", re.compile(r":transformer_blocks_[2-9]\d_")),
)


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
    """Base model of a file; `unknown` when nothing tells. Shapes that contradict the metadata or the names win."""
    names = tuple(_spelled(module) for module in modules)
    said, named = _said(metadata), _first(names, _NAMES)
    proved, why = _proved(modules, tensors) or ((), "")
    if said and proved and said not in proved:
        return BaseModel(
            family=proved[0],
            problem=f"its metadata say {family_name(said)}, but {why}, as in {family_name(proved[0])}",
        )
    guess = named if named in proved or not proved else proved[0]
    if guess == "flux1":
        guess = _first(names, _MANY) or guess
    return BaseModel(family=said or guess or _hinted(metadata) or "unknown")


def cross_attention_width(
    modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, TensorInfo]
) -> int | None:
    """Values that the cross-attention of the file's UNet reads; None when no tensor shows it."""
    sign, _ = _WIDTHS[0]
    for module, keys in modules.items():
        if sign.search(_spelled(module)):
            width = in_features({suffix: tensors[key].shape for suffix, key in keys.items()})
            if width:
                return width
    return None


def _proved(
    modules: Mapping[str, Mapping[str, str]], tensors: Mapping[str, TensorInfo]
) -> tuple[tuple[str, ...], str] | None:
    """Families that the shapes of a module prove, the likeliest first, and why; the first module that tells counts."""
    for module, keys in modules.items():
        name = _spelled(module)
        widths = next((found for sign, found in _WIDTHS if sign.search(name)), {})
        ratios = next((found for sign, found in _RATIOS if sign.search(name)), {})
        if not widths and not ratios:
            continue
        shapes = {suffix: tensors[key].shape for suffix, key in keys.items()}
        into, out = in_features(shapes), out_features(shapes)
        if into and into in widths:
            what = "its cross-attention" if "attn2" in name else module
            return tuple(widths[into].split()), f"{what} reads {into} values"
        if into and out and out / into in ratios:
            return tuple(ratios[out / into].split()), f"{module} makes {out} values of {into}"
    return None


def _spelled(module: str) -> str:
    at = address(module)
    # one colon alone: the tables' patterns look for it, and a hostile name may hold hundreds
    return f"{at.component or DENOISER}:{at.flat.replace(':', '_')}"


def out_features(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Outputs of a linear layer as the shapes of its adapter show them."""
    for suffix in ("lora_up", "diff", "hada_w1_a"):
        if shapes.get(suffix):
            return shapes[suffix][0]
    first = shapes.get("lokr_w1") or shapes.get("lokr_w1_a")
    second = shapes.get("lokr_w2") or shapes.get("lokr_w2_a")
    return first[0] * second[0] if first and second else None


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


def _first(names: Iterable[str], table: Iterable[tuple[str, re.Pattern[str]]]) -> str | None:
    return next((family for family, sign in table if any(sign.search(name) for name in names)), None)
