"""Splits tensor names into module and suffix, and names the algorithm of a module from its suffixes: tables only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from farm.lora.formats.header import TensorInfo

ALGORITHMS = ("lora", "locon", "dora", "loha", "lokr", "glora", "ia3", "oft", "boft", "norm", "full")

#: how files spell a suffix, and our one word for it
ALIASES: Mapping[str, tuple[str, ...]] = {
    "lora_up": (
        "lora_up.weight", "lora_B.weight", "lora_B.default.weight", "lora_B", "lora.up.weight",
        "lora_linear_layer.up.weight", "lora_up.default.weight",
    ),
    "lora_down": (
        "lora_down.weight", "lora_A.weight", "lora_A.default.weight", "lora_A", "lora.down.weight",
        "lora_linear_layer.down.weight", "lora_down.default.weight",
    ),
    "lora_mid": ("lora_mid.weight", "lora.mid.weight"),
    "lora_up_bias": ("lora_B.bias", "lora_B.default.bias"),
    "lora_e": ("lora_E", "lora_E.default"),
    "embedding_a": ("lora_embedding_A", "lora_embedding_A.default"),
    "embedding_b": ("lora_embedding_B", "lora_embedding_B.default"),
    "dora_scale": ("dora_scale",),
    "lora_magnitude": (
        "lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default",
        "lora_magnitude_vector.default.weight",
    ),
    "a1": ("a1.weight",), "a2": ("a2.weight",), "b1": ("b1.weight",), "b2": ("b2.weight",), "bm": ("bm.weight",),
    "oft_r": ("oft_R.weight", "oft_R.default.weight", "oft_R"),
    "boft_r": ("boft_R", "boft_R.default"), "boft_s": ("boft_s", "boft_s.default"),
    **{
        name: (name, f"{name}.default")
        for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
                     "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2")
    },
    **{
        name: (name,)
        for name in ("alpha", "diff", "diff_b", "w_norm", "b_norm", "on_input", "oft_blocks", "oft_diag", "rescale",
                     "ia3_l", "bias_indices", "bias_values", "bias_size", "reshape_weight", "set_weight")
    },
}  # fmt: skip
SUFFIXES: Mapping[str, str] = {alias: suffix for suffix, aliases in ALIASES.items() for alias in aliases}
#: DyLoRA's lists, one tensor for each rank (kohya) or block of ranks (LyCORIS); ours are `lora_down.0`, `lora_down.1`, …
_PART = re.compile(r"\.(lora_A|lora_B|down_list|up_list)\.(0|[1-9]\d{0,3})$")
#: what a tensor in 8-bit floats was divided by stands beside it; ours is `lora_up:scale`
_FP8_SCALES = ("scale_weight", "weight_scale")
_FP8_SCALE = re.compile(rf"[._]({'|'.join(_FP8_SCALES)})$")
SCALE = ":scale"
#: Flux control adapters hold these norms whole; in a file with nothing else they are a model's own
_NEW_NORM = re.compile(r"\.(query|key)_norm\.scale$")
#: words that whole models use as well: they count only beside a suffix from the table above
_WEAK = ("weight", "bias", "scale", *_FP8_SCALES)

#: first row whose suffixes are all there wins; the order is LyCORIS' own
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("lora", ("lora_up", "lora_down")),
    ("lora", ("embedding_a", "embedding_b")),
    ("loha", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
    ("ia3", ("on_input", "weight")),
    ("ia3", ("ia3_l",)),
    ("lokr", ("lokr_w1", "lokr_w2")),
    ("lokr", ("lokr_w1", "lokr_w2_a", "lokr_w2_b")),
    ("lokr", ("lokr_w1_a", "lokr_w1_b", "lokr_w2")),
    ("lokr", ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")),
    ("full", ("diff",)),
    ("norm", ("w_norm",)),
    ("norm", ("b_norm",)),
    ("oft", ("oft_blocks",)),
    ("oft", ("oft_diag",)),
    ("oft", ("oft_r",)),
    ("boft", ("boft_r",)),
    ("glora", ("a1", "a2", "b1", "b2")),
    ("full", ("diff_b",)),
    ("full", ("set_weight",)),
)

#: attention processors of XLabs and of old diffusers: the part to replace, and by what
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\.processor\.(?:qkv|proj)_lora[12]?)\.(up|down)\.weight$"), r"\1.lora.\2.weight"),
    (re.compile(r"\.processor\.to_(q|k|v)_lora\.(up|down)\.weight$"), r".to_\1.lora.\2.weight"),
    (re.compile(r"\.processor\.to_out_lora\.(up|down)\.weight$"), r".to_out.0.lora.\1.weight"),
    (re.compile(r"\.to_(q|k|v)_lora\.(up|down)\.weight$"), r".to_\1.lora.\2.weight"),
    (re.compile(r"\.to_out_lora\.(up|down)\.weight$"), r".to_out.0.lora.\1.weight"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """The tensors of a file by module, and the names that belong to no known kind."""

    #: module name as in the file -> our suffix -> whole key
    modules: Mapping[str, Mapping[str, str]]
    unknown: tuple[str, ...]


def split(key: str) -> tuple[str, str] | None:
    """Module and our suffix of a tensor's name; None for a name of no known kind.

    >>> split("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight")
    ('lora_unet_mid_block_attentions_0_proj_in', 'lora_up')
    >>> split("unet.mid_block.attn1.processor.to_out_lora.down.weight")
    ('unet.mid_block.attn1.to_out.0', 'lora_down')
    """
    if "_lora" in key:
        for pattern, replacement in _REWRITES:
            key = pattern.sub(replacement, key)
    dot = key.find(".")
    while dot > 0:
        suffix = SUFFIXES.get(key[dot + 1 :])
        if suffix:
            return key[:dot], suffix
        dot = key.find(".", dot + 1)
    return _split_list(key) or _split_scale(key)


def base(suffix: str) -> str:
    """Our suffix without the place in a list and without the mark of a scale.

    >>> base("lora_down.12"), base("diff:scale")
    ('lora_down', 'diff')
    """
    return suffix.partition(".")[0].removesuffix(SCALE)


def _split_list(key: str) -> tuple[str, str] | None:
    found = _PART.search(key)
    if not found or not found.start():
        return None
    side = "lora_down" if found[1] in ("lora_A", "down_list") else "lora_up"
    return key[: found.start()], f"{side}.{found[2]}"


def _split_scale(key: str) -> tuple[str, str] | None:
    found = _FP8_SCALE.search(key)
    if not found:
        return None
    tensor = key[: found.start()]
    inner = split(f"{tensor}.weight") or split(tensor)
    return (inner[0], inner[1] + SCALE) if inner and not inner[1].endswith(SCALE) else None


def group(keys: Iterable[str]) -> Grouped:
    """All keys by module. A second key for the same module and suffix counts as unknown."""
    modules: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in keys:
        found = split(key)
        if found and found[1] not in modules.get(found[0], ()):
            modules.setdefault(found[0], {})[found[1]] = key
        else:
            others.append(key)
    unknown = []
    adapter = bool(modules)
    for key in others:
        module, _, word = key.rpartition(".")
        known = modules.get(module, {})
        # the scale of a whole difference needs no other name
        suffix = f"diff{SCALE}" if word in _FP8_SCALES and "diff" in known else word
        if word in _WEAK and known and suffix not in known:
            known[suffix] = key
        elif adapter and _NEW_NORM.search(key):
            modules[module] = {"set_weight": key}
        else:
            unknown.append(key)
    return Grouped(modules=modules, unknown=tuple(unknown))


def algorithm_of(keys: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> str | None:
    """Algorithm of one module (our suffix -> key): a word of ALGORITHMS, or None when its tensors make no sense together."""
    words = {base(suffix) for suffix in keys if not suffix.endswith(SCALE)}
    algorithm = next((name for name, signs in _SIGNS if words.issuperset(signs)), None)
    if algorithm == "lora":
        if "dora_scale" in keys or "lora_magnitude" in keys:
            return "dora"
        kernel = tensors[keys["lora_down"]].shape[2:] if "lora_down" in keys else ()
        return "locon" if "lora_mid" in keys or any(k > 1 for k in kernel) else "lora"
    if algorithm == "oft" and "oft_blocks" in keys and len(tensors[keys["oft_blocks"]].shape) == 4:
        return "boft"
    return algorithm
