"""Layers of UNets made from configs are those of diffusers' own module."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from farm.errors import BadRequest
from farm.models.layouts import unet
from farm.models.layouts.known import SD15, SDXL
from tests.support.tiny import SD15_UNET, SDXL_UNET
from tests.unit.models.layouts.oracle import described, weighted

SD21: dict[str, Any] = {
    **SD15["unet"],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
#: pruned SDXL: no middle, uneven transformer depths
SSD: dict[str, Any] = {
    **SDXL["unet"],
    "mid_block_type": None,
    "transformer_layers_per_block": [[0, 0], [2, 2], [4, 3]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}
TINY = dict(SD15_UNET)
UNETS: dict[str, Any] = {
    "sd15": dict(SD15["unet"]),
    "sd21": SD21,
    "sdxl": dict(SDXL["unet"]),
    "ssd": SSD,
    "tiny": TINY,
    "tiny_sdxl": dict(SDXL_UNET),
    "lcm": {**TINY, "time_cond_proj_dim": 24},
    "classes": {**TINY, "num_class_embeds": 10, "resnet_time_scale_shift": "scale_shift"},
    "upscaler": {**TINY, "only_cross_attention": [True, True, True, False], "in_channels": 7},
    "projected": {**TINY, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 40},
    "levels": {
        **TINY,
        "layers_per_block": (1, 2, 1, 2),
        "mid_block_type": "UNetMidBlock2D",
        "encoder_hid_dim": 20,
    },
}
UNETS = {name: {k: v for k, v in config.items() if k != "_class_name"} for name, config in UNETS.items()}


@pytest.mark.parametrize("name", UNETS)
def test_unet_layers_are_those_of_the_module(name: str) -> None:
    with torch.device("meta"):
        module = UNet2DConditionModel(**UNETS[name])
    assert described(unet.layers(UNETS[name])) == weighted(module)


def test_sd15_blocks_are_numbered_as_in_ldm() -> None:
    layers = {layer.path: layer for layer in unet.layers(SD15["unet"])}
    names = unet.labels(SD15["unet"])

    def label(path: str) -> tuple[str, str]:
        layer = layers[path]
        return layer.block, names[layer.index] if layer.index >= 0 else ""

    assert len(names) == 25
    assert label("conv_in") == ("in", "")
    assert label("time_embedding.linear_1") == ("in", "")
    assert label("conv_out") == ("in", "")
    assert label("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q") == ("in", "IN01")
    assert label("down_blocks.0.downsamplers.0.conv") == ("in", "IN03")
    assert label("down_blocks.1.attentions.1.proj_in") == ("in", "IN05")
    assert label("down_blocks.2.attentions.1.proj_in") == ("in", "IN08")
    assert label("down_blocks.3.resnets.1.conv1") == ("in", "IN11")
    assert label("mid_block.attentions.0.proj_in") == ("mid", "M00")
    assert label("up_blocks.0.upsamplers.0.conv") == ("out", "OUT02")
    assert label("up_blocks.1.attentions.0.proj_in") == ("out", "OUT03")
    assert label("up_blocks.3.attentions.2.proj_in") == ("out", "OUT11")


def test_sdxl_blocks_are_numbered_as_in_ldm() -> None:
    layers = {layer.path: layer for layer in unet.layers(SDXL["unet"])}
    names = unet.labels(SDXL["unet"])
    assert (names[0], names[8], names[9], names[10], names[-1]) == ("IN00", "IN08", "M00", "OUT00", "OUT08")
    assert names[layers["down_blocks.1.attentions.0.proj_in"].index] == "IN04"
    assert names[layers["down_blocks.2.attentions.1.proj_in"].index] == "IN08"
    assert names[layers["up_blocks.0.attentions.0.proj_in"].index] == "OUT00"
    assert names[layers["up_blocks.1.attentions.2.proj_in"].index] == "OUT05"
    assert layers["add_embedding.linear_1"].index == -1


def test_an_unknown_variant_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="addition_embed_type is 'image', Farm knows None or 'text_time'"):
        unet.read({"addition_embed_type": "image"})
    with pytest.raises(BadRequest, match="block type 'KDownBlock2D'"):
        unet.read({"down_block_types": ["KDownBlock2D"] * 4})
    with pytest.raises(BadRequest, match="has 3 entries, the model has 4 blocks"):
        unet.read({"cross_attention_dim": [1, 2, 3]})
