"""Tiny transformers of every family as diffusers builds them, their layouts, and the names that published files give to
their layers, written down from those files and from the families' own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import diffusers
import torch
from torch import nn

from farm.lora.layout import Layout
from tests.unit.lora.make import layout_of

_HEADS: dict[str, Any] = {"attention_head_dim": 8, "num_attention_heads": 2}
_FLUX = {
    **_HEADS, "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "joint_attention_dim": 12,
    "axes_dims_rope": (4, 2, 2),
}  # fmt: skip
CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "flux1": ("FluxTransformer2DModel", {**_FLUX, "pooled_projection_dim": 10, "guidance_embeds": True}),
    "chroma": ("ChromaTransformer2DModel", {**_FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 12, "approximator_layers": 2}),
    "flux2": ("Flux2Transformer2DModel", {**_FLUX, "axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8}),
    "sd3": ("SD3Transformer2DModel", {
        **_HEADS, "sample_size": 8, "in_channels": 4, "num_layers": 3, "joint_attention_dim": 12, "caption_projection_dim": 16,
        "pooled_projection_dim": 10, "out_channels": 4, "pos_embed_max_size": 8, "dual_attention_layers": (0,),
        "qk_norm": "rms_norm"}),
    "wan": ("WanTransformer3DModel", {
        "attention_head_dim": 12, "num_attention_heads": 2, "in_channels": 4, "out_channels": 4, "text_dim": 10,
        "freq_dim": 8, "ffn_dim": 40, "num_layers": 2, "image_dim": 14, "added_kv_proj_dim": 24}),
    "qwenimage": ("QwenImageTransformer2DModel", {
        **_HEADS, "in_channels": 8, "out_channels": 2, "num_layers": 2, "joint_attention_dim": 12, "axes_dims_rope": (4, 2, 2)}),
    "zimage": ("ZImageTransformer2DModel", {
        "in_channels": 4, "dim": 24, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 10,
        "axes_dims": (4, 4, 4), "axes_lens": (16, 16, 16)}),
    "hunyuanvideo": ("HunyuanVideoTransformer3DModel", {
        **_HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_single_layers": 2, "num_refiner_layers": 1,
        "text_embed_dim": 12, "pooled_projection_dim": 10, "rope_axes_dim": (4, 2, 2)}),
    "ltxv": ("LTXVideoTransformer3DModel", {
        **_HEADS, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16, "num_layers": 2, "caption_channels": 12}),
    "lumina2": ("Lumina2Transformer2DModel", {
        "sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2, "num_refiner_layers": 2,
        "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 8, "cap_feat_dim": 10, "axes_dim_rope": (4, 2, 2)}),
    "hidream": ("HiDreamImageTransformer2DModel", {
        **_HEADS, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1,
        "caption_channels": [12, 10], "text_emb_dim": 9, "num_routed_experts": 2, "num_activated_experts": 1,
        "axes_dims_rope": (4, 2, 2), "max_resolution": (8, 8), "llama_layers": [0, 1]}),
    "auraflow": ("AuraFlowTransformer2DModel", {
        **_HEADS, "sample_size": 8, "in_channels": 4, "num_mmdit_layers": 2, "num_single_dit_layers": 2, "joint_attention_dim": 12,
        "caption_projection_dim": 16, "out_channels": 4, "pos_embed_max_size": 16}),
    "sana": ("SanaTransformer2DModel", {
        **_HEADS, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 12, "sample_size": 8}),
}  # fmt: skip
Names = Iterator[tuple[str, tuple[int, ...]]]


def model(family: str, **changes: Any) -> nn.Module:
    """A model of the family with random weights."""
    torch.manual_seed(3)
    name, config = CONFIGS[family]
    found: nn.Module = getattr(diffusers, name)(**{**config, **changes})
    return found.requires_grad_(False).eval()


@cache
def layout(family: str) -> Layout:
    return layout_of({"transformer": model(family)}, family)


def wide(family: str, **changes: Any) -> Layout:
    """The layout of a model of another size, without weights."""
    with torch.device("meta"):
        return layout_of({"transformer": model(family, **changes)}, family)


def flux1(
    h: int = 16, doubles: int = 2, singles: int = 2, into: int = 4, text: int = 12, pooled: int = 10
) -> Names:
    """Black Forest Labs' names of Flux.1 with the shapes of their weights."""
    yield from {
        "img_in": (h, into), "txt_in": (h, text), "time_in.in_layer": (h, 256), "time_in.out_layer": (h, h),
        "vector_in.in_layer": (h, pooled), "vector_in.out_layer": (h, h), "guidance_in.in_layer": (h, 256),
        "guidance_in.out_layer": (h, h),
    }.items()  # fmt: skip
    for n in range(doubles):
        for side in ("img", "txt"):
            yield f"double_blocks.{n}.{side}_mod.lin", (6 * h, h)
            yield f"double_blocks.{n}.{side}_attn.qkv", (3 * h, h)
            yield f"double_blocks.{n}.{side}_attn.proj", (h, h)
            yield f"double_blocks.{n}.{side}_mlp.0", (4 * h, h)
            yield f"double_blocks.{n}.{side}_mlp.2", (h, 4 * h)
    for n in range(singles):
        yield f"single_blocks.{n}.linear1", (7 * h, h)
        yield f"single_blocks.{n}.linear2", (h, 5 * h)
        yield f"single_blocks.{n}.modulation.lin", (3 * h, h)
    yield "final_layer.linear", (into, h)
    yield "final_layer.adaLN_modulation.1", (2 * h, h)


def chroma(h: int = 16) -> Names:
    for name, shape in flux1(h):
        if not any(word in name for word in ("mod", "time_in", "vector_in", "guidance_in")):
            yield name, shape
    yield "distilled_guidance_layer.in_proj", (12, 8)
    for n in range(2):
        yield f"distilled_guidance_layer.layers.{n}.in_layer", (12, 12)
        yield f"distilled_guidance_layer.layers.{n}.out_layer", (12, 12)
    yield "distilled_guidance_layer.out_proj", (h, 12)


def flux2(h: int = 16) -> Names:
    yield from {
        "img_in": (h, 4), "txt_in": (h, 12), "time_in.in_layer": (h, 8), "time_in.out_layer": (h, h),
        "guidance_in.in_layer": (h, 8), "guidance_in.out_layer": (h, h), "double_stream_modulation_img.lin": (6 * h, h),
        "double_stream_modulation_txt.lin": (6 * h, h), "single_stream_modulation.lin": (3 * h, h),
    }.items()  # fmt: skip
    for n in range(2):
        for side in ("img", "txt"):
            yield f"double_blocks.{n}.{side}_attn.qkv", (3 * h, h)
            yield f"double_blocks.{n}.{side}_attn.proj", (h, h)
            yield f"double_blocks.{n}.{side}_mlp.0", (6 * h, h)
            yield f"double_blocks.{n}.{side}_mlp.2", (h, 3 * h)
        yield f"single_blocks.{n}.linear1", (9 * h, h)
        yield f"single_blocks.{n}.linear2", (h, 4 * h)
    yield "final_layer.linear", (4, h)
    yield "final_layer.adaLN_modulation.1", (2 * h, h)


def sd3(h: int = 16, blocks: int = 3) -> Names:
    yield "x_embedder.proj", (h, 4, 2, 2)
    yield "context_embedder", (h, 12)
    yield from {"t_embedder.mlp.0": (h, 256), "t_embedder.mlp.2": (h, h)}.items()
    yield from {"y_embedder.mlp.0": (h, 10), "y_embedder.mlp.2": (h, h)}.items()
    for n in range(blocks):
        for side in ("x", "context"):
            name, last = f"joint_blocks.{n}.{side}_block", side == "context" and n == blocks - 1
            dual = n == 0 and side == "x"
            yield f"{name}.attn.qkv", (3 * h, h)
            yield f"{name}.adaLN_modulation.1", ((2 if last else 9 if dual else 6) * h, h)
            if not last:
                yield f"{name}.attn.proj", (h, h)
                yield f"{name}.mlp.fc1", (4 * h, h)
                yield f"{name}.mlp.fc2", (h, 4 * h)
            if dual:
                yield f"{name}.attn2.qkv", (3 * h, h)
                yield f"{name}.attn2.proj", (h, h)
    yield "final_layer.linear", (16, h)
    yield "final_layer.adaLN_modulation.1", (2 * h, h)


def wan(h: int = 24) -> Names:
    yield from {
        "text_embedding.0": (h, 10), "text_embedding.2": (h, h), "time_embedding.0": (h, 8), "time_embedding.2": (h, h),
        "time_projection.1": (6 * h, h), "img_emb.proj.1": (14, 14), "img_emb.proj.3": (h, 14), "head.head": (16, h),
    }.items()  # fmt: skip
    for n in range(2):
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k",
                     "cross_attn.v", "cross_attn.o", "cross_attn.k_img", "cross_attn.v_img"):  # fmt: skip
            yield f"blocks.{n}.{name}", (h, h)
        yield f"blocks.{n}.ffn.0", (40, h)
        yield f"blocks.{n}.ffn.2", (h, 40)


def qwenimage(h: int = 16) -> Names:
    yield from {
        "img_in": (h, 8), "txt_in": (h, 12), "norm_out.linear": (2 * h, h), "proj_out": (8, h),
        "time_text_embed.timestep_embedder.linear_1": (h, 256), "time_text_embed.timestep_embedder.linear_2": (h, h),
    }.items()  # fmt: skip
    for n in range(2):
        for name in (
            "to_q",
            "to_k",
            "to_v",
            "to_out.0",
            "add_q_proj",
            "add_k_proj",
            "add_v_proj",
            "to_add_out",
        ):
            yield f"transformer_blocks.{n}.attn.{name}", (h, h)
        for side in ("img", "txt"):
            yield f"transformer_blocks.{n}.{side}_mod.1", (6 * h, h)
            yield f"transformer_blocks.{n}.{side}_mlp.net.0.proj", (4 * h, h)
            yield f"transformer_blocks.{n}.{side}_mlp.net.2", (h, 4 * h)


def zimage(h: int = 24) -> Names:
    for block in ("layers", "noise_refiner", "context_refiner"):
        for n in range(2):
            yield f"{block}.{n}.attention.qkv", (3 * h, h)
            yield f"{block}.{n}.attention.out", (h, h)
            yield from {
                f"{block}.{n}.feed_forward.{w}": s
                for w, s in (("w1", (64, h)), ("w2", (h, 64)), ("w3", (64, h)))
            }.items()
            if block != "context_refiner":
                yield f"{block}.{n}.adaLN_modulation.0", (4 * h, h)
    yield from {
        "cap_embedder.1": (h, 10), "x_embedder": (h, 16), "t_embedder.mlp.0": (1024, 256), "t_embedder.mlp.2": (h, 1024),
        "final_layer.linear": (16, h), "final_layer.adaLN_modulation.1": (h, h),
    }.items()  # fmt: skip


def hunyuanvideo(h: int = 16) -> Names:
    yield from {
        "img_in.proj": (h, 4, 1, 2, 2), "time_in.mlp.0": (h, 256), "time_in.mlp.2": (h, h), "vector_in.in_layer": (h, 10),
        "vector_in.out_layer": (h, h), "guidance_in.mlp.0": (h, 256), "guidance_in.mlp.2": (h, h),
        "txt_in.input_embedder": (h, 12), "txt_in.t_embedder.mlp.0": (h, 256), "txt_in.t_embedder.mlp.2": (h, h),
        "txt_in.c_embedder.linear_1": (h, 12), "txt_in.c_embedder.linear_2": (h, h),
    }.items()  # fmt: skip
    name = "txt_in.individual_token_refiner.blocks.0"
    yield from {
        f"{name}.self_attn_qkv": (3 * h, h),
        f"{name}.self_attn_proj": (h, h),
        f"{name}.mlp.fc1": (4 * h, h),
    }.items()
    yield from {f"{name}.mlp.fc2": (h, 4 * h), f"{name}.adaLN_modulation.1": (2 * h, h)}.items()
    for n in range(2):
        for side in ("img", "txt"):
            yield f"double_blocks.{n}.{side}_mod.linear", (6 * h, h)
            yield f"double_blocks.{n}.{side}_attn_qkv", (3 * h, h)
            yield f"double_blocks.{n}.{side}_attn_proj", (h, h)
            yield f"double_blocks.{n}.{side}_mlp.fc1", (4 * h, h)
            yield f"double_blocks.{n}.{side}_mlp.fc2", (h, 4 * h)
        yield f"single_blocks.{n}.linear1", (7 * h, h)
        yield f"single_blocks.{n}.linear2", (h, 5 * h)
        yield f"single_blocks.{n}.modulation.linear", (3 * h, h)
    yield "final_layer.linear", (16, h)
    yield "final_layer.adaLN_modulation.1", (2 * h, h)


def ltxv(h: int = 16) -> Names:
    yield from {
        "patchify_proj": (h, 4), "adaln_single.emb.timestep_embedder.linear_1": (h, 256), "adaln_single.linear": (6 * h, h),
        "adaln_single.emb.timestep_embedder.linear_2": (h, h), "caption_projection.linear_1": (h, 12),
        "caption_projection.linear_2": (h, h), "proj_out": (4, h),
    }.items()  # fmt: skip
    for n in range(2):
        for name in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                yield f"transformer_blocks.{n}.{name}.{part}", (h, h)
        yield f"transformer_blocks.{n}.ff.net.0.proj", (4 * h, h)
        yield f"transformer_blocks.{n}.ff.net.2", (h, 4 * h)


def lumina2(h: int = 24) -> Names:
    time = min(h, 1024)
    for block in ("layers", "noise_refiner", "context_refiner"):
        for n in range(2):
            yield f"{block}.{n}.attention.qkv", (h + 2 * h // 3, h)
            yield f"{block}.{n}.attention.out", (h, h)
            yield f"{block}.{n}.feed_forward.w1", (4 * h, h)
            yield f"{block}.{n}.feed_forward.w2", (h, 4 * h)
            yield f"{block}.{n}.feed_forward.w3", (4 * h, h)
            if block != "context_refiner":
                yield f"{block}.{n}.adaLN_modulation.1", (4 * h, time)
    yield from {
        "x_embedder": (h, 16), "cap_embedder.1": (h, 10), "t_embedder.mlp.0": (time, 256), "t_embedder.mlp.2": (time, time),
        "final_layer.linear": (16, h), "final_layer.adaLN_modulation.1": (h, time),
    }.items()  # fmt: skip


def hidream(h: int = 16) -> Names:
    for block, sides in (("double_stream_blocks", ("", "_t")), ("single_stream_blocks", ("",))):
        for side in sides:
            for part in ("to_q", "to_k", "to_v", "to_out"):
                yield f"{block}.0.block.attn1.{part}{side}", (h, h)
        yield f"{block}.0.block.adaLN_modulation.1", ((12 if len(sides) == 2 else 6) * h, h)
        yield f"{block}.0.block.ff_i.experts.1.w1", (256, h)
        yield f"{block}.0.block.ff_i.shared_experts.w2", (h, 256)
    yield "final_layer.adaLN_modulation.1", (2 * h, h)


def auraflow(h: int = 16) -> Names:
    for n in range(2):
        for name in ("w1q", "w1k", "w1v", "w1o", "w2q", "w2k", "w2v", "w2o"):
            yield f"double_layers.{n}.attn.{name}", (h, h)
        for name in ("w1q", "w1k", "w1v", "w1o"):
            yield f"single_layers.{n}.attn.{name}", (h, h)
        for name in (f"double_layers.{n}.mlpX", f"double_layers.{n}.mlpC", f"single_layers.{n}.mlp"):
            yield from {
                f"{name}.c_fc1": (256, h),
                f"{name}.c_fc2": (256, h),
                f"{name}.c_proj": (h, 256),
            }.items()
        for name in (f"double_layers.{n}.modX.1", f"double_layers.{n}.modC.1", f"single_layers.{n}.modCX.1"):
            yield name, (6 * h, h)
    yield from {
        "init_x_linear": (h, 16), "cond_seq_linear": (16, 12), "t_embedder.mlp.0": (h, 256), "t_embedder.mlp.2": (h, h),
        "final_linear": (16, h), "modF.1": (2 * h, h),
    }.items()  # fmt: skip


def sana(h: int = 16) -> Names:
    for n in range(2):
        yield from {
            f"blocks.{n}.attn.qkv": (3 * h, h), f"blocks.{n}.attn.proj": (h, h), f"blocks.{n}.cross_attn.q_linear": (h, h),
            f"blocks.{n}.cross_attn.kv_linear": (2 * h, h), f"blocks.{n}.cross_attn.proj": (h, h),
            f"blocks.{n}.mlp.inverted_conv.conv": (5 * h, h, 1, 1), f"blocks.{n}.mlp.depth_conv.conv": (5 * h, 1, 3, 3),
            f"blocks.{n}.mlp.point_conv.conv": (h, 5 * h // 2, 1, 1),
        }.items()  # fmt: skip
    yield from {
        "x_embedder.proj": (h, 4, 1, 1), "t_embedder.mlp.0": (h, 256), "t_embedder.mlp.2": (h, h), "t_block.1": (6 * h, h),
        "y_embedder.y_proj.fc1": (h, 12), "y_embedder.y_proj.fc2": (h, h), "final_layer.linear": (4, h),
    }.items()  # fmt: skip


#: family -> names and shapes as its authors have them, for the tiny model
ORIGINAL: Mapping[str, Callable[[], Names]] = {
    "flux1": flux1, "chroma": chroma, "flux2": flux2, "sd3": sd3, "wan": wan, "qwenimage": qwenimage, "zimage": zimage,
    "hunyuanvideo": hunyuanvideo, "ltxv": ltxv, "lumina2": lumina2, "hidream": hidream, "auraflow": auraflow, "sana": sana,
}  # fmt: skip
