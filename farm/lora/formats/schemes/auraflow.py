"""Names of the layers of AuraFlow as its authors have them."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

_NETWORK = {"c_fc1": "linear_1", "c_fc2": "linear_2", "c_proj": "out_projection"}
_BLOCK = {
    "attn.w2q": "attn.to_q",
    "attn.w2k": "attn.to_k",
    "attn.w2v": "attn.to_v",
    "attn.w2o": "attn.to_out.0",
    "attn.w1q": "attn.add_q_proj",
    "attn.w1k": "attn.add_k_proj",
    "attn.w1v": "attn.add_v_proj",
    "attn.w1o": "attn.to_add_out",
    "modX.1": "norm1.linear",
    "modC.1": "norm1_context.linear",
}
_SINGLE = {
    "attn.w1q": "attn.to_q",
    "attn.w1k": "attn.to_k",
    "attn.w1v": "attn.to_v",
    "attn.w1o": "attn.to_out.0",
    "modCX.1": "norm1.linear",
}
_TOP = {
    "init_x_linear": "pos_embed.proj",
    "cond_seq_linear": "context_embedder",
    "t_embedder.mlp.0": "time_step_proj.linear_1",
    "t_embedder.mlp.2": "time_step_proj.linear_2",
    "final_linear": "proj_out",
    "modF.1": "~norm_out.linear",
}

ROWS: tuple[Row, ...] = (
    *under("double_layers.{}.", "joint_transformer_blocks.{}.", _BLOCK),
    *under("double_layers.{}.mlpX.", "joint_transformer_blocks.{}.ff.", _NETWORK),
    *under("double_layers.{}.mlpC.", "joint_transformer_blocks.{}.ff_context.", _NETWORK),
    *under("single_layers.{}.", "single_transformer_blocks.{}.", _SINGLE),
    *under("single_layers.{}.mlp.", "single_transformer_blocks.{}.ff.", _NETWORK),
    *under("", "", _TOP),
)
