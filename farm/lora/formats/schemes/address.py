"""Takes the prefix off a module's name: which scheme wrote it, which component it means, what path is left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from farm.lora.layout import Layout

#: stands for every denoiser of a layout, whatever it is called there
DENOISER = "denoiser"

#: first row that any key of the file fits
_SCHEMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("kohya-oft", r"^oft_unet_"),
        ("musubi", r"^lora_unet__?blocks_\d+_((self|cross)_attn_(q|k|v|o|k_img|v_img|norm_\w+)\.|ffn_)"),
        ("onetrainer", r"^lora_transformer_"),
        ("kohya", r"^lora_(unet|te\d?|prior)_"),
        ("lycoris", r"^lycoris_"),
        ("xlabs", r"(double|single)_blocks\.\d+\.processor\."),
        ("bfl-control", r"img_in\.lora_A"),
        ("old-processor", r"\.(processor\.)?to_(q|k|v|out)_lora\."),
        ("old-diffusers", r"\.lora\.(up|down)\.weight$|\.lora_linear_layer\."),
        ("bfl", r"(double|single)_blocks\.\d+\."),
        ("comfyui", r"^((model\.)?diffusion_model|text_encoders)\."),
        ("diffusers", r"^(unet|transformer(_2)?|text_encoder(_[23])?)\."),
        ("peft", r"^base_model\.model\."),
    )
)

#: start of a flat (kohya) module name -> component; longer ones first
_FLAT: tuple[tuple[str, str], ...] = (
    ("lora_prior_unet_", DENOISER),
    ("lora_prior_te_", "text_encoder"),
    ("lora_transformer_", DENOISER),
    ("lora_unet__", DENOISER),
    ("lora_unet_", DENOISER),
    ("oft_unet_", DENOISER),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te3_", "text_encoder_3"),
    ("lora_te_", "text_encoder"),
    ("lycoris_", DENOISER),
)

#: start of a dotted module name -> component; "" for wrappers that say nothing; taken off one after another
_DOTTED: tuple[tuple[str, str], ...] = (
    ("base_model.model.", ""),
    ("model.diffusion_model.", DENOISER),
    ("diffusion_model.", DENOISER),
    ("pipe.dit.", DENOISER),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3"),
    *(
        (f"text_encoders.{model}.transformer.", "text_encoder")
        for model in ("umt5xxl", "pile_t5xl", "llama", "qwen25_7b", "qwen3_4b", "gemma2_2b", "mistral3_24b")
    ),
    ("conditioner.embedders.0.transformer.", "text_encoder"),
    ("conditioner.embedders.1.model.", "text_encoder_2"),
    ("cond_stage_model.transformer.", "text_encoder"),
    ("cond_stage_model.model.", "text_encoder"),
    ("unet.", DENOISER),
    ("transformer_2.", "transformer_2"),
    ("transformer.", DENOISER),
    ("text_encoder_4.", "text_encoder_4"),
    ("text_encoder_3.", "text_encoder_3"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a module name of a file points: a component (DENOISER, a text encoder, "" for unsaid) and a path in it."""

    component: str
    path: str

    @property
    def flat(self) -> str:
        return flatten(self.path)


def flatten(path: str) -> str:
    return path.replace(".", "_")


def scheme_of(keys: Iterable[str]) -> str:
    """Name of the naming scheme of a file with these tensor names; `plain` when nothing tells."""
    names = tuple(keys)
    return next((scheme for scheme, sign in _SCHEMES if any(sign.search(key) for key in names)), "plain")


def address(module: str) -> Address:
    """Component and path of a module name.

    >>> address("lora_te1_text_model_encoder_layers_0_mlp_fc1")
    Address(component='text_encoder', path='text_model_encoder_layers_0_mlp_fc1')
    >>> address("base_model.model.unet.conv_in")
    Address(component='denoiser', path='conv_in')
    """
    for prefix, component in _FLAT:
        if module.startswith(prefix):
            return Address(component, module.removeprefix(prefix))
    found, path = "", module
    while step := next(((p, c) for p, c in _DOTTED if path.startswith(p)), None):
        prefix, component = step
        found, path = found or component, path.removeprefix(prefix)
    return Address(found, path)


def components(layout: Layout, wanted: str) -> tuple[str, ...]:
    """The components of a layout that an address may mean, the likeliest first."""
    if wanted == DENOISER:
        return layout.denoisers
    if wanted == "text_encoder_3" and wanted not in layout.components:
        # kohya calls T5 the third encoder, also of models that have one or two
        return layout.text_encoders[-1:]
    if wanted:
        return (wanted,) if wanted in layout.components else ()
    return layout.denoisers + layout.text_encoders
