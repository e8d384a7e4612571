"""Names of the layers of Z-Image as its authors have them."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

_BLOCK = {
    "attention.qkv": "attention.to_q attention.to_k attention.to_v",
    "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
}
#: the only sizes of patches (across, in time) that there are models for
_TOP = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
}

ROWS: tuple[Row, ...] = (
    *(
        row
        for name in ("layers.{}.", "noise_refiner.{}.", "context_refiner.{}.")
        for row in under(name, name, _BLOCK)
    ),
    *under("", "", _TOP),
)
