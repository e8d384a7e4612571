"""Which suffixes each algorithm uses: the one list, for those that only look (torch-free) and those that apply."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from farm.lora.formats.suffixes import base

_SCALED = frozenset({"alpha", "scale"})
#: differences that extractions keep beside their factors: of the weight (sparse or whole) and of the bias
_RESIDUALS = frozenset({"bias_indices", "bias_values", "bias_size", "bias", "diff_b"})
_MAGNITUDES = frozenset({"dora_scale", "lora_magnitude"})
_FACTORED = _SCALED | _RESIDUALS | _MAGNITUDES
_LORA = frozenset(
    {"lora_up", "lora_down", "lora_mid", "lora_up_bias", "lora_e", "embedding_a", "embedding_b", "reshape_weight"}
) | (_FACTORED - _MAGNITUDES)  # fmt: skip
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2")

#: algorithms that the engine applies, and the suffixes that it understands there; all else is recognised and refused
APPLIED: Mapping[str, frozenset[str]] = {
    "lora": _LORA,
    "locon": _LORA,
    "dora": _LORA | _MAGNITUDES,
    "loha": frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}) | _FACTORED,
    "lokr": frozenset(_LOKR) | _FACTORED,
    "glora": frozenset({"a1", "a2", "b1", "b2", "bm"}) | _FACTORED,
    "ia3": frozenset({"weight", "on_input", "ia3_l", "alpha"}),
    "oft": frozenset({"oft_blocks", "oft_diag", "oft_r", "alpha", "rescale"}) | _MAGNITUDES,
    "boft": frozenset({"oft_blocks", "boft_r", "boft_s", "alpha", "rescale"}) | _MAGNITUDES,
    "full": frozenset({"diff", "diff_b", "set_weight", "alpha"}),
    "norm": frozenset({"w_norm", "b_norm", "alpha"}),
}


def not_applied(algorithm: str, suffixes: Collection[str]) -> list[str]:
    """Suffixes of a module that its algorithm does not use, sorted: applying the rest would be half of an adapter."""
    return sorted(suffix for suffix in suffixes if base(suffix) not in APPLIED[algorithm])
