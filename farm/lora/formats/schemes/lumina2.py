"""Names of the layers of Lumina Image 2 as its authors have them."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

_BLOCK = {
    "attention.qkv": "attn.to_q attn.to_k attn.to_v",
    "attention.out": "attn.to_out.0",
    "attention.q_norm": "attn.norm_q",
    "attention.k_norm": "attn.norm_k",
    "feed_forward.w1": "feed_forward.linear_1",
    "feed_forward.w2": "feed_forward.linear_2",
    "feed_forward.w3": "feed_forward.linear_3",
    "attention_norm2": "norm2",
}
_MODULATED = {"attention_norm1": "norm1.norm", "adaLN_modulation.1": "norm1.linear"}
_TOP = {
    "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
    "cap_embedder.0": "time_caption_embed.caption_embedder.0",
    "cap_embedder.1": "time_caption_embed.caption_embedder.1",
    "final_layer.adaLN_modulation.1": "norm_out.linear_1",
    "final_layer.linear": "norm_out.linear_2",
}

ROWS: tuple[Row, ...] = (
    *(
        row
        for name in ("layers.{}.", "noise_refiner.{}.", "context_refiner.{}.")
        for row in under(name, name, _BLOCK | _MODULATED)
    ),
    *under("context_refiner.{}.", "context_refiner.{}.", {"attention_norm1": "norm1"}),
    *under("", "", _TOP),
)
