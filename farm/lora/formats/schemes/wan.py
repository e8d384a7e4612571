"""Names of the layers of Wan as its authors have them; musubi-tuner, Wan Fun and ComfyUI use the same."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

_BLOCK = {
    **{f"self_attn.{theirs}": f"attn1.{ours}" for theirs, ours in (
        ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"), ("norm_q", "norm_q"), ("norm_k", "norm_k"),
    )},
    **{f"cross_attn.{theirs}": f"attn2.{ours}" for theirs, ours in (
        ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"), ("norm_q", "norm_q"), ("norm_k", "norm_k"),
        ("k_img", "add_k_proj"), ("v_img", "add_v_proj"), ("norm_k_img", "norm_added_k"),
    )},
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    # the norm before cross-attention; theirs are numbered in another order
    "norm3": "norm2",
}  # fmt: skip
_TOP = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
}

ROWS: tuple[Row, ...] = (*under("blocks.{}.", "blocks.{}.", _BLOCK), *under("", "", _TOP))
