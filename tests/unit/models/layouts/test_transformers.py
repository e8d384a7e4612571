"""Layers of transformers made from configs are those of diffusers' own modules."""

import itertools
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import BadRequest
from farm.models.layouts.blocks import stack
from farm.models.layouts.classes import DENOISERS
from tests.unit.models.layouts.oracle import described, weighted
from tests.unit.models.layouts.published import TRANSFORMERS, class_name

_DUAL = {"num_layers": 3, "num_single_layers": 4, "attention_head_dim": 8, "num_attention_heads": 3}
#: a few layers, odd widths, and the branches that no published model takes
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "sd3": ("SD3", {"num_layers": 4, "attention_head_dim": 8, "num_attention_heads": 3, "joint_attention_dim": 20, "caption_projection_dim": 24, "pooled_projection_dim": 12, "in_channels": 5, "out_channels": None, "qk_norm": "rms_norm", "dual_attention_layers": (0, 3)}),
    "flux": ("Flux", {**_DUAL, "in_channels": 20, "joint_attention_dim": 14, "pooled_projection_dim": 10, "out_channels": 12, "patch_size": 2}),
    "flux2": ("Flux2", {**_DUAL, "in_channels": 20, "joint_attention_dim": 14, "timestep_guidance_channels": 16, "mlp_ratio": 2.5}),
    "chroma": ("Chroma", {**_DUAL, "in_channels": 20, "joint_attention_dim": 14, "approximator_num_channels": 8, "approximator_hidden_dim": 18, "approximator_layers": 2}),
    "wan": ("Wan", {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3, "out_channels": 5, "text_dim": 10, "freq_dim": 16, "ffn_dim": 40, "cross_attn_norm": False, "patch_size": (2, 1, 4)}),
    "wan from pictures": ("Wan", {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "image_dim": 9, "added_kv_proj_dim": 24, "pos_embed_seq_len": 3}),
    "qwen": ("QwenImage", {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 12, "out_channels": 3, "joint_attention_dim": 18, "axes_dims_rope": (4, 6, 6), "use_additional_t_cond": True}),
    "zimage": ("ZImage", {"dim": 48, "n_layers": 4, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 20, "siglip_feat_dim": 14, "axes_dims": [8, 8, 8], "axes_lens": [8, 8, 8], "all_patch_size": (2, 4), "all_f_patch_size": (1, 2), "qk_norm": False, "in_channels": 3}),
    "hunyuan": ("HunyuanVideo", {**_DUAL, "num_refiner_layers": 1, "mlp_ratio": 2.5, "patch_size": 4, "patch_size_t": 2, "guidance_embeds": False, "text_embed_dim": 14, "pooled_projection_dim": 10, "in_channels": 3, "out_channels": 4}),
    "hunyuan from pictures": ("HunyuanVideo", {**_DUAL, "image_condition_type": "token_replace", "in_channels": 33}),
    "ltx": ("LTXVideo", {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 18, "caption_channels": 10, "in_channels": 7, "out_channels": None, "norm_elementwise_affine": True, "attention_bias": False}),
    "lumina": ("Lumina2", {"hidden_size": 48, "num_layers": 4, "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 32, "ffn_dim_multiplier": 1.3, "cap_feat_dim": 20, "axes_dim_rope": (4, 4, 4), "axes_lens": (8, 8, 8)}),
    "hidream": ("HiDreamImage", {**_DUAL, "in_channels": 5, "patch_size": 2, "caption_channels": [10, 12], "text_emb_dim": 14, "num_routed_experts": 2, "llama_layers": list(range(7))}),
    "hidream without experts": ("HiDreamImage", {**_DUAL, "in_channels": 5, "patch_size": 2, "caption_channels": [10, 12], "num_routed_experts": 0, "llama_layers": list(range(7))}),
    "auraflow": ("AuraFlow", {"num_mmdit_layers": 2, "num_single_dit_layers": 3, "attention_head_dim": 8, "num_attention_heads": 3, "joint_attention_dim": 10, "caption_projection_dim": 24, "in_channels": 5, "pos_embed_max_size": 16}),
    "sana": ("Sana", {"num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 6, "num_cross_attention_heads": 3, "cross_attention_head_dim": 8, "cross_attention_dim": 24, "caption_channels": 10, "mlp_ratio": 1.5, "attention_bias": True, "patch_size": 2, "norm_elementwise_affine": True, "in_channels": 3, "out_channels": None}),
}  # fmt: skip
CASES = {f"published {name}": case for name, case in TRANSFORMERS.items()} | {
    f"small {name}": case for name, case in SMALL.items()
}


@pytest.mark.parametrize("name", CASES)
def test_layers_are_those_of_the_module(name: str) -> None:
    stem, config = CASES[name]
    with torch.device("meta"):
        module = getattr(diffusers, class_name(stem)).from_config(config)
    found = list(DENOISERS[class_name(stem)].layers(config, "transformer"))
    assert described(found) == weighted(module)
    assert {layer.component for layer in found} == {"transformer"}
    # what config.json holds beside what was asked for: the class's own defaults, and a few names of diffusers'
    assert list(DENOISERS[class_name(stem)].layers(dict(module.config), "transformer")) == found


@given(st.integers(0, 200))
def test_a_stack_is_cut_into_thirds(count: int) -> None:
    places = stack("transformer", count)
    assert [place.index for place in places] == list(range(count))
    sides = [place.block for place in places]
    assert sides == sorted(sides, key=("in", "mid", "out").index)
    sizes = [sides.count(side) for side in ("in", "mid", "out")]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("name", CASES)
def test_blocks_are_thirds_in_order(name: str) -> None:
    stem, config = CASES[name]
    denoiser = DENOISERS[class_name(stem)]
    labels = denoiser.labels(config)
    found = list(denoiser.layers(config, "transformer_2"))
    assert len(set(labels)) == len(labels)
    blocks = {layer.index: layer.block for layer in found if layer.index >= 0}
    assert list(blocks) == list(range(len(labels)))
    sides = [(side, len(list(run))) for side, run in itertools.groupby(blocks.values())]
    assert [side for side, _ in sides] == ["in", "mid", "out"][: len(labels)]
    counts = [count for _, count in sides]
    assert max(counts) - min(counts) <= 1
    assert {layer.block for layer in found if layer.index < 0} == {"in", "out"}
    # a block's layers share the part of their path that numbers it
    stems: dict[int, set[str]] = {}
    for layer in found:
        if layer.index >= 0:
            stems.setdefault(layer.index, set()).add(".".join(layer.path.split(".")[:2]))
    assert all(len(paths) == 1 for paths in stems.values())


def test_flux_has_the_blocks_that_vectors_of_61_factors_name() -> None:
    labels = DENOISERS["FluxTransformer2DModel"].labels({})
    assert (labels[0], labels[18], labels[19], labels[-1], len(labels)) == ("D00", "D18", "S00", "S37", 57)
    layers = {layer.path: layer for layer in DENOISERS["FluxTransformer2DModel"].layers({}, "transformer")}
    assert layers["single_transformer_blocks.0.proj_mlp"].index == 19
    assert (layers["x_embedder"].block, layers["x_embedder"].index) == ("in", -1)
    assert (layers["proj_out"].block, layers["proj_out"].index) == ("out", -1)


@pytest.mark.parametrize(
    ("stem", "config", "sentence"),
    [
        ("SD3", {"qk_norm": "layer_norm"}, "qk_norm is 'layer_norm', Farm knows None or 'rms_norm'"),
        ("LTXVideo", {"activation_fn": "geglu"}, "activation_fn is 'geglu', Farm knows 'gelu-approximate'"),
        ("HunyuanVideo", {"qk_norm": None}, "transformer_2 config: qk_norm is None"),
    ],
)
def test_an_unknown_variant_is_refused_by_name(stem: str, config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        list(DENOISERS[class_name(stem)].layers(config, "transformer_2"))
