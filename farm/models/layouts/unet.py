"""Layers of UNet2DConditionModel (Stable Diffusion 1, 2, XL and what is shaped like them) from its config.

Blocks carry the numbers that LoRA tools use, those of the original LDM code: `IN01` is the first ResNet with its
attention, a downsampler counts as a block of its own, an upsampler belongs to the block before it. `IN00` stands
for conv_in, which belongs to no block here, as time embedding and conv_out: all these have block `in`, index -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from farm.errors import BadRequest
from farm.lora.layout import Layer
from farm.models.layouts.blocks import Config, Place, each, require

#: Fields of the config whose variants change names or shapes: what we lay out; the first is the default.
VARIANTS: dict[str, tuple[Any, ...]] = {
    "dual_cross_attention": (False,),
    "time_embedding_type": ("positional",),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "encoder_hid_dim_type": (None, "text_proj"),
    "class_embed_type": (None, "timestep", "projection", "simple_projection"),
    "class_embeddings_concat": (False,),
    "addition_embed_type": (None, "text_time"),
    "attention_type": ("default",),
    "cross_attention_norm": (None,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
}
#: Fields that say what a picture is, where a config does not.
DEFAULTS: dict[str, Any] = {"in_channels": 4, "sample_size": 64}
DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")


@dataclass(frozen=True, slots=True)
class Shape:
    """What the config says, spelled out for each level from the top down."""

    widths: tuple[int, ...]
    resnets: tuple[int, ...]
    down: tuple[str, ...]
    up: tuple[str, ...]
    depths: tuple[Any, ...]
    up_depths: tuple[Any, ...]
    text: tuple[int, ...]
    only_cross: tuple[bool, ...]
    temb: int
    scale_shift: bool
    linear_projection: bool


def read(config: Config) -> Shape:
    """Return the shape that `config` describes.

    Raises:
        BadRequest: a variant that Farm does not know, or lists of contradicting length.
    """
    require(config, "unet", VARIANTS)
    widths = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
    count = len(widths)
    down = each(list(config.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))), count)
    up = each(list(config.get("up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)), count)
    for kinds, known in ((down, DOWN_BLOCKS), (up, UP_BLOCKS)):
        for kind in kinds:
            if kind not in known:
                raise BadRequest(
                    f"unet config: block type {kind!r}, Farm knows {' and '.join(known)}",
                    code="unsupported_model",
                )
    depths = each(config.get("transformer_layers_per_block", 1), count)
    reverse = config.get("reverse_transformer_layers_per_block")
    only_cross = config.get("only_cross_attention", False)
    return Shape(
        widths=widths,
        resnets=each(config.get("layers_per_block", 2), count),
        down=down,
        up=up,
        depths=depths,
        up_depths=each(reverse, count) if reverse is not None else depths[::-1],
        text=each(config.get("cross_attention_dim", 1280), count),
        only_cross=each(only_cross, count),
        temb=int(config.get("time_embedding_dim") or widths[0] * 4),
        scale_shift=config.get("resnet_time_scale_shift", "default") == "scale_shift",
        linear_projection=bool(config.get("use_linear_projection", False)),
    )


def labels(config: Config) -> tuple[str, ...]:
    """Return the labels of the blocks in order.

    >>> labels({})[:2], labels({})[11:14], labels({})[-1]
    (('IN00', 'IN01'), ('IN11', 'M00', 'OUT00'), 'OUT11')
    """
    shape = read(config)
    levels = len(shape.widths)
    inputs = 1 + sum(shape.resnets) + levels - 1
    outputs = sum(shape.resnets) + levels
    return (
        *(f"IN{number:02}" for number in range(inputs)),
        "M00",
        *(f"OUT{number:02}" for number in range(outputs)),
    )


def layers(config: Config, component: str = "unet") -> Iterator[Layer]:
    """Yield every layer that has a weight, in the order in which a picture passes them."""
    shape = read(config)
    names = labels(config)
    outside = Place(component, "in")
    yield from _entrance(config, shape, outside)
    yield from _down(shape, component, names)
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None:
        place = Place(component, "mid", names.index("M00"))
        crossed = config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn"
        yield from _mid(shape, place, crossed=crossed)
    yield from _up(shape, component, names)
    if config.get("norm_num_groups", 32) is not None:
        yield outside.norm("conv_norm_out", shape.widths[0])
    size = int(config.get("conv_out_kernel", 3))
    yield outside.conv("conv_out", shape.widths[0], int(config.get("out_channels", 4)), size)


def _entrance(config: Config, shape: Shape, place: Place) -> Iterator[Layer]:
    first = shape.widths[0]
    yield place.conv(
        "conv_in",
        int(config.get("in_channels", DEFAULTS["in_channels"])),
        first,
        int(config.get("conv_in_kernel", 3)),
    )
    yield from _time_embedding(place, "time_embedding", first, shape.temb)
    if config.get("time_cond_proj_dim") is not None:
        yield place.linear("time_embedding.cond_proj", int(config["time_cond_proj_dim"]), first, bias=False)
    if config.get("encoder_hid_dim") is not None:
        yield place.linear("encoder_hid_proj", int(config["encoder_hid_dim"]), shape.text[0])
    kind = config.get("class_embed_type")
    if kind is None and config.get("num_class_embeds") is not None:
        yield place.embedding("class_embedding", int(config["num_class_embeds"]), shape.temb)
    elif kind == "timestep":
        yield from _time_embedding(place, "class_embedding", first, shape.temb)
    elif kind == "projection":
        width = int(config["projection_class_embeddings_input_dim"])
        yield from _time_embedding(place, "class_embedding", width, shape.temb)
    elif kind == "simple_projection":
        width = int(config["projection_class_embeddings_input_dim"])
        yield place.linear("class_embedding", width, shape.temb)
    if config.get("addition_embed_type") == "text_time":
        width = int(config["projection_class_embeddings_input_dim"])
        yield from _time_embedding(place, "add_embedding", width, shape.temb)


def _down(shape: Shape, component: str, names: tuple[str, ...]) -> Iterator[Layer]:
    number, width = 1, shape.widths[0]
    for level, kind in enumerate(shape.down):
        into, width = width, shape.widths[level]
        path = f"down_blocks.{level}"
        for j in range(shape.resnets[level]):
            place = Place(component, "in", names.index(f"IN{number:02}"))
            yield from _resnet(shape, place, f"{path}.resnets.{j}", into if j == 0 else width, width)
            if kind == "CrossAttnDownBlock2D":
                depth = _depth(shape.depths[level], j)
                yield from _transformer(
                    shape, place, f"{path}.attentions.{j}", width, level=level, depth=depth
                )
            number += 1
        if level < len(shape.down) - 1:
            place = Place(component, "in", names.index(f"IN{number:02}"))
            yield place.conv(f"{path}.downsamplers.0.conv", width, width, 3)
            number += 1


def _mid(shape: Shape, place: Place, *, crossed: bool) -> Iterator[Layer]:
    width = shape.widths[-1]
    yield from _resnet(shape, place, "mid_block.resnets.0", width, width)
    if crossed:
        depth = _depth(shape.depths[-1], 0)
        yield from _transformer(
            shape, place, "mid_block.attentions.0", width, level=-1, depth=depth, only_cross=False
        )
        yield from _resnet(shape, place, "mid_block.resnets.1", width, width)


def _up(shape: Shape, component: str, names: tuple[str, ...]) -> Iterator[Layer]:
    widths = shape.widths[::-1]
    number, width = 0, widths[0]
    for level, kind in enumerate(shape.up):
        mirror = len(widths) - 1 - level
        before, width = width, widths[level]
        skipped = widths[min(level + 1, len(widths) - 1)]
        count = shape.resnets[mirror] + 1
        path = f"up_blocks.{level}"
        for j in range(count):
            place = Place(component, "out", names.index(f"OUT{number:02}"))
            into = (before if j == 0 else width) + (skipped if j == count - 1 else width)
            yield from _resnet(shape, place, f"{path}.resnets.{j}", into, width)
            if kind == "CrossAttnUpBlock2D":
                depth = _depth(shape.up_depths[level], j)
                yield from _transformer(
                    shape, place, f"{path}.attentions.{j}", width, level=mirror, depth=depth
                )
            if j == count - 1 and level < len(widths) - 1:
                yield place.conv(f"{path}.upsamplers.0.conv", width, width, 3)
            number += 1


def _depth(depth: Any, attention: int) -> int:
    """Return the number of transformer blocks; some pruned models give one for each attention of a level."""
    return int(depth[attention] if isinstance(depth, list | tuple) else depth)


def _time_embedding(place: Place, path: str, into: int, width: int) -> Iterator[Layer]:
    yield place.linear(f"{path}.linear_1", into, width)
    yield place.linear(f"{path}.linear_2", width, width)


def _resnet(shape: Shape, place: Place, path: str, into: int, width: int) -> Iterator[Layer]:
    yield place.norm(f"{path}.norm1", into)
    yield place.conv(f"{path}.conv1", into, width, 3)
    yield place.linear(f"{path}.time_emb_proj", shape.temb, width * (2 if shape.scale_shift else 1))
    yield place.norm(f"{path}.norm2", width)
    yield place.conv(f"{path}.conv2", width, width, 3)
    if into != width:
        yield place.conv(f"{path}.conv_shortcut", into, width, 1)


def _transformer(
    shape: Shape,
    place: Place,
    path: str,
    width: int,
    level: int,
    depth: int,
    *,
    only_cross: bool | None = None,
) -> Iterator[Layer]:
    text = shape.text[level]
    crossed = shape.only_cross[level] if only_cross is None else only_cross
    yield place.norm(f"{path}.norm", width)
    yield _projection(shape, place, f"{path}.proj_in", width)
    for number in range(depth):
        block = f"{path}.transformer_blocks.{number}"
        yield from _transformer_block(place, block, width, text, first_sees=text if crossed else width)
    yield _projection(shape, place, f"{path}.proj_out", width)


def _projection(shape: Shape, place: Place, path: str, width: int) -> Layer:
    return place.linear(path, width, width) if shape.linear_projection else place.conv(path, width, width, 1)


def _transformer_block(place: Place, path: str, width: int, text: int, *, first_sees: int) -> Iterator[Layer]:
    for number, seen in ((1, first_sees), (2, text)):
        yield place.norm(f"{path}.norm{number}", width)
        yield place.linear(f"{path}.attn{number}.to_q", width, width, bias=False)
        yield place.linear(f"{path}.attn{number}.to_k", seen, width, bias=False)
        yield place.linear(f"{path}.attn{number}.to_v", seen, width, bias=False)
        yield place.linear(f"{path}.attn{number}.to_out.0", width, width)
    yield place.norm(f"{path}.norm3", width)
    yield place.linear(f"{path}.ff.net.0.proj", width, width * 8)
    yield place.linear(f"{path}.ff.net.2", width * 4, width)
