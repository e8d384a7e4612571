"""Black Forest Labs' names of the layers of Flux.1, which kohya, fal, ComfyUI and the control files use, and XLabs' names.
Chroma has the same, without modulations and with a network that makes them."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

_BLOCK = {
    "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
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
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
_XLABS = {
    "qkv_lora1": "attn.to_q attn.to_k attn.to_v",
    "qkv_lora2": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "proj_lora1": "attn.to_out.0",
    "proj_lora2": "attn.to_add_out",
}
_XLABS_SINGLE = {"qkv_lora": "attn.to_q attn.to_k attn.to_v", "proj_lora": "proj_out"}
_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}
_APPROXIMATOR = {"in_layer": "linear_1", "out_layer": "linear_2"}

ROWS: tuple[Row, ...] = (
    *under("double_blocks.{}.", "transformer_blocks.{}.", _BLOCK),
    *under("double_blocks.{}.processor.", "transformer_blocks.{}.", _XLABS),
    *under("single_blocks.{}.", "single_transformer_blocks.{}.", _SINGLE),
    *under("single_blocks.{}.processor.", "single_transformer_blocks.{}.", _XLABS_SINGLE),
    *under("distilled_guidance_layer.layers.{}.", "distilled_guidance_layer.layers.{}.", _APPROXIMATOR),
    *under("", "", _TOP),
)
