"""OpenCLIP's names of the layers of a CLIP text encoder, as old SDXL and SD 2 files have them."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

#: `text_projection` is missing: OpenCLIP stores it transposed
ROWS: tuple[Row, ...] = (
    *under(
        "transformer.resblocks.{}.",
        "encoder.layers.{}.",
        {
            "attn.in_proj": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
            "attn.out_proj": "self_attn.out_proj",
            "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2",
            "ln_1": "layer_norm1",
            "ln_2": "layer_norm2",
        },
    ),
    Row("token_embedding", ("embeddings.token_embedding",)),
    Row("ln_final", ("final_layer_norm",)),
)
