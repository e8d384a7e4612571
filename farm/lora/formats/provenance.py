"""Metadata of files that we write: what they are, for kohya's, Stability's and our own readers, and what they came from.

Fields: kohya's `ss_…` (as its training and resizing scripts write them) and ModelSpec 1.0.1 (Stability AI).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

_STABILITY = "https://github.com/Stability-AI/generative-models"
#: family -> `ss_base_model_version` and `modelspec.architecture`; others are called by our own word
_WORDS: Mapping[str, tuple[str, str]] = {
    "sd1": ("sd_v1", "stable-diffusion-v1"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "sd3": ("sd3", "stable-diffusion-3-medium"),
    "flux1": ("flux1", "flux-1-dev"),
    "flux2": ("flux2", "flux-2-dev"),
    "wan": ("wan", "wan"),
    "qwenimage": ("qwen-image", "qwen-image"),
    "zimage": ("zimage", "z-image"),
    "hunyuanvideo": ("hunyuan_video", "hunyuan-video"),
    "lumina2": ("lumina2", "lumina-2"),
    "demo": ("farm-demo", "farm-demo"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that something was made of."""

    name: str
    sha256: str
    #: as its tag or option said it: `0.8`, `te=0.5:unet=1`
    strength: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was made: its title, the model's family, the files it came from."""

    title: str
    family: str
    #: an aware time
    date: datetime
    sources: Sequence[Source]
    #: the base model's name; "" when unknown
    base: str = ""
    trigger_words: Sequence[str] = ()


def of_lora(made: Made, *, ranks: Collection[int], kernels: bool, whole: bool) -> dict[str, str]:
    """Metadata of a LoRA whose alphas are its `ranks`; `kernels`: some layers are convolutions with one, `whole`: some
    changes are stored as they are, which only LyCORIS' module reads."""
    rank = str(next(iter(set(ranks)))) if len(set(ranks)) == 1 else "Dynamic"
    arguments = {"conv_dim": rank, "conv_alpha": rank} if kernels else {}
    version, _ = words_of(made.family)
    return {
        "ss_network_module": "lycoris.kohya" if whole else "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": json.dumps(({"algo": "locon"} if whole else {}) | arguments),
        "ss_base_model_version": version,
        "ss_output_name": made.title,
        **({"ss_sd_model_name": made.base} if made.base else {}),
        **_model_spec(made, "/lora"),
    }


def of_checkpoint(made: Made) -> dict[str, str]:
    """Metadata of a whole model with adapters baked in."""
    return _model_spec(made, "")


def words_of(family: str) -> tuple[str, str]:
    """`ss_base_model_version` and `modelspec.architecture` of a family."""
    return _WORDS.get(family, (family, family))


def _model_spec(made: Made, kind: str) -> dict[str, str]:
    _, architecture = words_of(made.family)
    plain_lora = kind and made.family != "sdxl"
    found = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture + kind,
        "modelspec.implementation": "diffusers" if plain_lora else _STABILITY,
        "modelspec.title": made.title,
        "modelspec.date": made.date.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "modelspec.merged_from": ", ".join(source.name for source in made.sources),
        "farm.sources": json.dumps([asdict(source) for source in made.sources]),
    }
    if made.trigger_words:
        found["modelspec.trigger_phrase"] = ", ".join(dict.fromkeys(made.trigger_words))
    return found
