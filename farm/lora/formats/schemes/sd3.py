"""Stability's names of the layers of Stable Diffusion 3 and 3.5, which kohya's scripts use."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

_PICTURE = {
    "attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "attn.proj": "attn.to_out.0",
    "attn.ln_q": "attn.norm_q",
    "attn.ln_k": "attn.norm_k",
    "attn2.qkv": "attn2.to_q attn2.to_k attn2.to_v",
    "attn2.proj": "attn2.to_out.0",
    "attn2.ln_q": "attn2.norm_q",
    "attn2.ln_k": "attn2.norm_k",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
_TEXT = {
    "attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "attn.proj": "attn.to_add_out",
    "attn.ln_q": "attn.norm_added_q",
    "attn.ln_k": "attn.norm_added_k",
    "mlp.fc1": "ff_context.net.0.proj",
    "mlp.fc2": "ff_context.net.2",
    # in the last block it makes a scale and a shift alone
    "adaLN_modulation.1": "~norm1_context.linear",
}
_TOP = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}

ROWS: tuple[Row, ...] = (
    *under("joint_blocks.{}.x_block.", "transformer_blocks.{}.", _PICTURE),
    *under("joint_blocks.{}.context_block.", "transformer_blocks.{}.", _TEXT),
    *under("", "", _TOP),
)
