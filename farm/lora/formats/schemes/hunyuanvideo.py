"""Tencent's names of the layers of HunyuanVideo, which musubi-tuner uses, and ComfyUI's, which are nearer to Flux.1."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

_BLOCK = {
    "img_attn_qkv": "attn.to_q attn.to_k attn.to_v",
    "txt_attn_qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "img_attn_proj": "attn.to_out.0",
    "txt_attn_proj": "attn.to_add_out",
    "img_mlp.fc1": "ff.net.0.proj",
    "img_mlp.fc2": "ff.net.2",
    "txt_mlp.fc1": "ff_context.net.0.proj",
    "txt_mlp.fc2": "ff_context.net.2",
    "img_mod.linear": "norm1.linear",
    "txt_mod.linear": "norm1_context.linear",
    "img_attn_q_norm": "attn.norm_q",
    "img_attn_k_norm": "attn.norm_k",
    "txt_attn_q_norm": "attn.norm_added_q",
    "txt_attn_k_norm": "attn.norm_added_k",
}
_COMFY_BLOCK = {
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_SINGLE = {
    "linear1": "attn.to_q attn.to_k attn.to_v proj_mlp",
    "linear2": "proj_out",
    "modulation.linear": "norm.linear",
    "modulation.lin": "norm.linear",
    "q_norm": "attn.norm_q",
    "k_norm": "attn.norm_k",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
_REFINER = {
    "self_attn_qkv": "attn.to_q attn.to_k attn.to_v",
    "self_attn_proj": "attn.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "mlp.0": "ff.net.0.proj",
    "mlp.2": "ff.net.2",
    "adaLN_modulation.1": "norm_out.linear",
    "norm1": "norm1",
    "norm2": "norm2",
}
_TEXT = {
    "input_embedder": "proj_in",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "t_embedder.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "c_embedder.linear_1": "time_text_embed.text_embedder.linear_1",
    "c_embedder.linear_2": "time_text_embed.text_embedder.linear_2",
    "c_embedder.in_layer": "time_text_embed.text_embedder.linear_1",
    "c_embedder.out_layer": "time_text_embed.text_embedder.linear_2",
}
_TOP = {
    "img_in.proj": "x_embedder.proj",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}
_EMBEDDERS = {
    "time_in.mlp.": "timestep_embedder",
    "guidance_in.mlp.": "guidance_embedder",
    "time_in.": "timestep_embedder",
    "guidance_in.": "guidance_embedder",
    "vector_in.": "text_embedder",
}
_LAYERS = {"0": "linear_1", "2": "linear_2", "in_layer": "linear_1", "out_layer": "linear_2"}

ROWS: tuple[Row, ...] = (
    *under("double_blocks.{}.", "transformer_blocks.{}.", _BLOCK | _COMFY_BLOCK),
    *under("single_blocks.{}.", "single_transformer_blocks.{}.", _SINGLE),
    *under(
        "txt_in.individual_token_refiner.blocks.{}.",
        "context_embedder.token_refiner.refiner_blocks.{}.",
        _REFINER,
    ),
    *under("txt_in.", "context_embedder.", _TEXT),
    *(
        row
        for theirs, ours in _EMBEDDERS.items()
        for row in under(theirs, f"time_text_embed.{ours}.", _LAYERS)
    ),
    *under("", "", _TOP),
)
