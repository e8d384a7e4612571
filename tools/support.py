"""What Farm loads, as one table: algorithm, naming scheme, family, and the library that judges the combination in
tests/contract/test_support.py, which walks it cell by cell. The page and the README's list are made from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from farm.lora.formats.detect import FAMILY_NAMES, UNETS, family_name

#: who says what a file's numbers mean; `formula` is ours, where no library applies the algorithm to such a layer
Judge = Literal["lycoris", "peft", "formula"]
#: whose names the modules have: diffusers' own, those of the family's authors, LDM's, in text encoders transformers'
Names = Literal["diffusers", "authors", "ldm", "transformers"]

#: letter in the page, and what it says
JUDGES: Mapping[Judge, tuple[str, str]] = {
    "lycoris": ("L", "outputs of LyCORIS' module of that algorithm"),
    "peft": ("P", "weights that peft merges"),
    "formula": ("f", "the formula W + s · w_norm alone: no library adapts norms that have no bias"),
}
ALGORITHMS: Mapping[str, str] = {
    "lora": "LoRA", "locon": "LoCon", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr", "glora": "GLoRA", "ia3": "(IA)³",
    "oft": "OFT", "boft": "BOFT", "norm": "norms", "full": "full differences",
}  # fmt: skip
_NAMES: Mapping[Names, str] = {
    "diffusers": "diffusers'", "authors": "the authors'", "ldm": "LDM's", "transformers": "transformers'"
}  # fmt: skip
FAMILIES = tuple(word for word in FAMILY_NAMES if word not in ("demo", "unknown"))
UNET_FAMILIES = tuple(word for word in FAMILIES if word in UNETS)
TRANSFORMERS = tuple(word for word in FAMILIES if word not in UNETS)
#: families with a convolution wider than one pixel that trains with one group
CONVOLUTIONS = (*UNET_FAMILIES, "sd3", "wan", "hunyuanvideo")
#: a family whose norms have no weights
NO_NORMS = ("auraflow",)
#: diffusers' function that turns the authors' names into its own; Qwen-Image's authors use diffusers' names
CONVERTERS: Mapping[str, str] = {
    "sd1": "convert_ldm_unet_checkpoint",
    "sd2": "convert_ldm_unet_checkpoint",
    "sdxl": "convert_ldm_unet_checkpoint",
    "sd3": "convert_sd3_transformer_checkpoint_to_diffusers",
    "flux1": "convert_flux_transformer_checkpoint_to_diffusers",
    "flux2": "convert_flux2_transformer_checkpoint_to_diffusers",
    "chroma": "convert_chroma_transformer_checkpoint_to_diffusers",
    "wan": "convert_wan_transformer_to_diffusers",
    "zimage": "convert_z_image_transformer_checkpoint_to_diffusers",
    "hunyuanvideo": "convert_hunyuan_video_transformer_to_diffusers",
    "ltxv": "convert_ltx_transformer_checkpoint_to_diffusers",
    "lumina2": "convert_lumina2_to_diffusers",
    "hidream": "convert_hidream_transformer_to_diffusers",
    "auraflow": "convert_auraflow_transformer_checkpoint_to_diffusers",
    "sana": "convert_sana_transformer_to_diffusers",
}

_LYCORIS: Mapping[str, Judge] = dict.fromkeys(
    ("lora", "locon", "dora", "loha", "lokr", "glora", "ia3", "oft", "boft", "norm", "full"), "lycoris"
)
_PEFT: Mapping[str, Judge] = dict.fromkeys(
    ("lora", "locon", "dora", "loha", "lokr", "ia3", "oft", "boft"), "peft"
)
_DIFFUSERS: Mapping[str, Judge] = {**_LYCORIS, "lora": "peft", "locon": "peft", "dora": "peft"}
_LORA: Mapping[str, Judge] = {"lora": "lycoris"}
_CLIP: Mapping[str, Judge] = {word: judge for word, judge in _LYCORIS.items() if word != "locon"}
_T5: Mapping[str, Judge] = {word: judge for word, judge in _CLIP.items() if word != "norm"}


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a group of tools names modules and tensors."""

    #: the word that detection gives it
    scheme: str
    #: who writes it
    tools: str
    #: what stands before a module's name; `{}` is the component
    prefix: str
    names: Names
    families: tuple[str, ...]
    algorithms: Mapping[str, Judge]
    #: how up and down are called
    up: str = "lora_up.weight"
    down: str = "lora_down.weight"
    #: whether its files have one
    alpha: bool = True
    #: a text encoder of the model; "" for the denoiser
    encoder: str = ""

    @property
    def flat(self) -> bool:
        """Whether dots in names are written as underscores."""
        return self.prefix.endswith("_")


def _text(
    scheme: str,
    tools: str,
    prefix: str,
    families: tuple[str, ...],
    encoder: str,
    algorithms: Mapping[str, Judge] = _CLIP,
) -> Spelling:
    return Spelling(scheme, tools, prefix, "transformers", families, algorithms, encoder=encoder)


_A, _B = "lora_A.weight", "lora_B.weight"
_BFL = ("flux1", "chroma", "flux2", "hunyuanvideo")
SPELLINGS: tuple[Spelling, ...] = (
    Spelling("kohya", "sd-scripts, LyCORIS", "lora_unet_", "diffusers", ("sd1", "sd2", "qwenimage"), _LYCORIS),
    Spelling("kohya", "sd-scripts, LyCORIS", "lora_unet_", "ldm", ("sdxl",), _LYCORIS),
    Spelling(
        "kohya", "sd-scripts, musubi-tuner, LyCORIS", "lora_unet_", "authors",
        tuple(f for f in TRANSFORMERS if f not in ("wan", "qwenimage")), _LYCORIS,
    ),
    Spelling("musubi", "musubi-tuner", "lora_unet_", "authors", ("wan",), _LYCORIS),
    Spelling("kohya-oft", "sd-scripts", "oft_unet_", "diffusers", UNET_FAMILIES, {"oft": "lycoris"}),
    Spelling("onetrainer", "OneTrainer", "lora_transformer_", "diffusers", TRANSFORMERS, _LYCORIS),
    Spelling("lycoris", "SimpleTuner, LyCORIS", "lycoris_", "diffusers", FAMILIES, _LYCORIS),
    Spelling("comfyui", "ComfyUI", "diffusion_model.", "ldm", UNET_FAMILIES, _LYCORIS),
    Spelling(
        "comfyui", "ComfyUI, ai-toolkit, DiffSynth", "diffusion_model.", "authors",
        tuple(f for f in TRANSFORMERS if f not in _BFL and f != "qwenimage"), _LYCORIS, _B, _A,
    ),
    Spelling("comfyui", "ComfyUI, ai-toolkit", "diffusion_model.", "diffusers", ("qwenimage",), _LYCORIS, _B, _A),
    Spelling("bfl", "ComfyUI, ai-toolkit", "diffusion_model.", "authors", _BFL, _LYCORIS, _B, _A),
    Spelling("bfl", "fal", "base_model.model.", "authors", ("flux1", "chroma", "flux2"), _LYCORIS, _B, _A),
    Spelling("bfl-control", "Black Forest Labs (control)", "", "authors", ("flux1",), _LORA, _B, _A),
    Spelling("xlabs", "XLabs", "", "authors", ("flux1",), _LORA, "up.weight", "down.weight", alpha=False),
    Spelling("diffusers", "diffusers, SimpleTuner, ai-toolkit", "{}.", "diffusers", FAMILIES, _DIFFUSERS, _B, _A),
    Spelling("old-diffusers", "diffusers (before 0.22)", "{}.", "diffusers", UNET_FAMILIES, _LORA, "lora.up.weight", "lora.down.weight", alpha=False),
    Spelling("old-processor", "diffusers (before 0.18)", "{}.", "diffusers", UNET_FAMILIES, _LORA, "up.weight", "down.weight", alpha=False),
    Spelling("peft", "peft", "base_model.model.", "diffusers", FAMILIES, _PEFT, _B, _A),
    _text("kohya", "sd-scripts, LyCORIS", "lora_te_text_model_", ("sd1", "sd2"), "text_encoder"),
    _text("kohya", "sd-scripts, OneTrainer", "lora_te1_text_model_", ("sdxl", "sd3", "flux1"), "text_encoder"),
    _text("kohya", "sd-scripts, OneTrainer", "lora_te2_text_model_", ("sdxl", "sd3"), "text_encoder_2"),
    _text("kohya", "OneTrainer", "lora_te2_", ("flux1",), "text_encoder_2", _T5),
    _text("kohya", "sd-scripts", "lora_te3_", ("flux1",), "text_encoder_2", _T5),
    _text("kohya", "sd-scripts, OneTrainer", "lora_te3_", ("sd3",), "text_encoder_3", _T5),
    _text("comfyui", "ComfyUI", "text_encoders.clip_l.transformer.text_model.", ("sdxl", "sd3", "flux1"), "text_encoder"),
    _text("comfyui", "ComfyUI", "text_encoders.t5xxl.transformer.", ("flux1",), "text_encoder_2", _T5),
    _text("diffusers", "diffusers", "text_encoder.", ("sd1", "sd2", "sdxl", "sd3", "flux1"), "text_encoder"),
    _text("diffusers", "diffusers", "text_encoder.text_model.", ("sd1", "sd2", "sdxl", "sd3", "flux1"), "text_encoder"),
    _text("diffusers", "diffusers", "text_encoder_2.text_model.", ("sdxl", "sd3"), "text_encoder_2"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination that Farm loads, and who judges it."""

    algorithm: str
    spelling: Spelling
    family: str
    judge: Judge


def cells() -> Iterator[Cell]:
    """Every combination of the table."""
    for spelling in SPELLINGS:
        for family in spelling.families:
            for algorithm, judge in spelling.algorithms.items():
                if algorithm == "locon" and family not in CONVOLUTIONS:
                    continue
                if algorithm == "norm" and family in NO_NORMS:
                    continue
                own = algorithm == "norm" and family not in UNET_FAMILIES and not spelling.encoder
                yield Cell(algorithm, spelling, family, "formula" if own else judge)


def page() -> str:
    """The table for people: a line for each group of families that are judged alike."""
    lines = [
        "# What is supported\n",
        "<!-- made by script/docs; change the code, not this page -->\n\n",
        "Every combination of algorithm, naming scheme and family that has a letter here is a test: a random adapter file is loaded\n"
        "and applied at strengths 1, 0.7 and -0.5, and compared with what an independent library makes of the same file. The letter\n"
        "says which library judges the numbers:\n\n",
        *(f"- **{letter}**: {what}.\n" for letter, what in JUDGES.values()),
        "\nWhich outputs of which layers a module stands for is judged beside that. Names that are diffusers' own are those of its\n"
        "model classes; others go through the function of diffusers that converts checkpoints of the family:\n\n",
        *(f"- {family_name(word)}: `{name}`\n" for word, name in CONVERTERS.items()),
        "\nA dash is a combination without a judge, as no file has it: these tools do not write the algorithm, the family has no\n"
        "convolution wider than a pixel (LoCon; Sana's are depthwise), or its norms have no weights. Away from strength 1, where the trainers themselves differ (DoRA, and most of\n"
        "peft), the expected value is the line through the checkpoint and what was trained.\n\n"
        "[Adapter formats](adapter-formats.md) has the variants of each algorithm, [model families](model-families.md) the pipelines.\n"
        "Layers of text encoders stand at the end; names of other language models follow the same rules.\n\n",
        f"| scheme | written by | prefix, and whose names | families | {' | '.join(ALGORITHMS.values())} |\n",
        f"| --- | --- | --- | --- |{' --- |' * len(ALGORITHMS)}\n",
    ]
    for spelling in SPELLINGS:
        groups: dict[tuple[str, ...], list[str]] = {}
        for family in spelling.families:
            judges = {c.algorithm: c.judge for c in cells() if (c.spelling, c.family) == (spelling, family)}
            letters = tuple(JUDGES[judges[word]][0] if word in judges else "-" for word in ALGORITHMS)
            groups.setdefault(letters, []).append(family)
        for letters, words in groups.items():
            where = ", ".join(map(family_name, words)) + (
                f" (`{spelling.encoder}`)" if spelling.encoder else ""
            )
            prefix = spelling.prefix.format("unet" if words[0] in UNET_FAMILIES else "transformer")
            called = f"`{prefix}`, {_NAMES[spelling.names]}" if prefix else _NAMES[spelling.names]
            start = (f"`{spelling.scheme}`", spelling.tools, called, where)
            lines.append(f"| {' | '.join((*start, *letters))} |\n")
    return "".join(lines)


def short_list() -> str:
    """The same for the README."""
    tools = dict.fromkeys(
        tool.partition(" (")[0] for spelling in SPELLINGS for tool in spelling.tools.split(", ")
    )
    return (
        f"- **Models**: {', '.join(family_name(word) for word in FAMILIES)}.\n"
        f"- **Algorithms**: {', '.join(ALGORITHMS.values())}.\n"
        f"- **Files of**: {', '.join(tools)}.\n"
    )
