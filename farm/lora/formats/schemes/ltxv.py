"""Lightricks' names of the layers of LTX-Video, where they differ from diffusers'."""

from __future__ import annotations

from farm.lora.formats.schemes.rows import Row, under

ROWS: tuple[Row, ...] = (
    Row("patchify_proj", ("proj_in",)),
    Row("adaln_single.{*}", ("time_embed.{*}",)),
    *under(
        "transformer_blocks.{}.",
        "transformer_blocks.{}.",
        {f"{name}.{side}_norm": f"{name}.norm_{side}" for name in ("attn1", "attn2") for side in "qk"},
    ),
)
