"""What a file of each cell of the table of support has in it: modules, their names, and where diffusers says they belong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import single_file_utils as checkpoints
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from farm.lora.layout import Layer, Layout
from tests.support.tiny import SD15_UNET, SDXL_UNET
from tests.unit.lora import families
from tests.unit.lora.make import TEXT, layout_of
from tools.support import CONVERTERS, UNET_FAMILIES, Cell

UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd1": SD15_UNET,
    "sd2": {**SD15_UNET, "use_linear_projection": True},
    "sdxl": SDXL_UNET,
}
#: modules that a file changes, by diffusers' names, LDM's and those of the authors: fused ones, halves that stand the
#: other way round, convolutions
_UNET = {
    "to_k": "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "ff": "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "conv": "down_blocks.1.resnets.0.conv1",
    "norm": "down_blocks.1.resnets.0.norm1",
}
_LDM = {
    _UNET["to_k"]: "input_blocks.4.1.transformer_blocks.0.attn2.to_k",
    _UNET["ff"]: "input_blocks.4.1.transformer_blocks.0.ff.net.0.proj",
    _UNET["conv"]: "input_blocks.4.0.in_layers.2",
    _UNET["norm"]: "input_blocks.4.0.in_layers.0",
}
_AUTHORS: Mapping[str, tuple[str, ...]] = {
    "flux1": ("double_blocks.1.img_attn.qkv", "single_blocks.0.linear1", "final_layer.adaLN_modulation.1"),
    "chroma": ("double_blocks.1.txt_attn.qkv", "single_blocks.0.linear1"),
    "flux2": ("double_blocks.1.img_attn.qkv", "single_blocks.0.linear1", "final_layer.adaLN_modulation.1"),
    "sd3": ("joint_blocks.0.x_block.attn.qkv", "final_layer.adaLN_modulation.1", "x_embedder.proj"),
    "wan": ("blocks.0.self_attn.q", "blocks.1.ffn.0", "patch_embedding"),
    "zimage": ("layers.0.attention.qkv", "layers.1.feed_forward.w1"),
    "hunyuanvideo": ("double_blocks.1.img_attn_qkv", "single_blocks.0.linear1", "final_layer.adaLN_modulation.1", "img_in.proj"),
    "ltxv": ("transformer_blocks.0.attn1.to_q", "patchify_proj"),
    "lumina2": ("layers.0.attention.qkv", "layers.1.feed_forward.w1"),
    "hidream": ("double_stream_blocks.0.block.attn1.to_q", "final_layer.adaLN_modulation.1"),
    "auraflow": ("double_layers.0.attn.w1q", "modF.1"),
    "sana": ("blocks.0.attn.qkv", "blocks.0.cross_attn.kv_linear"),
}  # fmt: skip
_NORMS: Mapping[str, tuple[str, int]] = {
    "flux1": ("double_blocks.0.img_attn.norm.query_norm", 8), "chroma": ("double_blocks.0.img_attn.norm.query_norm", 8),
    "flux2": ("double_blocks.0.img_attn.norm.query_norm", 8), "sd3": ("joint_blocks.0.x_block.attn.ln_q", 8),
    "wan": ("blocks.0.self_attn.norm_q", 24), "zimage": ("layers.0.attention.q_norm", 12),
    "hunyuanvideo": ("double_blocks.0.img_attn_q_norm", 8), "ltxv": ("transformer_blocks.0.attn1.q_norm", 16),
    "lumina2": ("layers.0.attention.q_norm", 8), "hidream": ("double_stream_blocks.0.block.attn1.q_rms_norm", 16),
    "sana": ("attention_y_norm", 16),
}  # fmt: skip
_CONVS: Mapping[str, tuple[int, ...]] = {"patch_embedding": (24, 4, 1, 2, 2)}
#: widths that are written into diffusers' converters, by the tiny models'
_REPEAT = {"flux1": 192, "chroma": 192, "hunyuanvideo": 192, "lumina2": 96}

_T5 = T5EncoderModel, T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
_CLIP, _BIG = (CLIPTextModel, TEXT), (CLIPTextModelWithProjection, TEXT)
#: text encoders of the families' pipelines, in their order
_ENCODERS: Mapping[str, tuple[tuple[Any, Any], ...]] = {
    "sd1": (_CLIP,), "sd2": (_CLIP,), "sdxl": (_CLIP, _BIG), "sd3": (_BIG, _BIG, _T5), "flux1": (_CLIP, _T5),
}  # fmt: skip


class Checkpoint(dict[str, Tensor]):
    """Changes of weights in place of the weights; biases and tables that converters insist on are zeros."""

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key, torch.zeros(21504 if "linear1" in key else 12))

    def keys(self) -> Any:
        return list(super().keys())


@cache
def layout(family: str, *, text: bool = False) -> Layout:
    """The whole tiny model's; its names depend on what other layers it has."""
    if family not in UNETS and not text:
        return families.layout(family)
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {}
        for number, (kind, config) in enumerate(_ENCODERS[family] if text else (), start=1):
            parts["text_encoder" if number == 1 else f"text_encoder_{number}"] = kind(config)
        if family in UNETS:
            parts["unet"] = UNet2DConditionModel(**UNETS[family])
        else:
            parts["transformer"] = families.model(family)
        return layout_of(parts, family)


def layout_for(cell: Cell) -> Layout:
    """The layout that the cell's file is for."""
    return layout(cell.family, text=bool(cell.spelling.encoder))


def component_of(cell: Cell) -> str:
    """The component that the cell's file changes."""
    return cell.spelling.encoder or layout(cell.family).denoisers[0]


@cache
def layers_of(family: str, kind: str) -> tuple[Layer, ...]:
    """A few layers of diffusers' model: two matrices, a convolution or a norm with weights."""
    of = layout(family)
    if family in UNETS:
        words = {"linear": ("to_k", "ff"), "conv": ("conv",), "norm": ("norm",)}[kind]
        return tuple(of.layers[f"unet.{_UNET[word]}"] for word in words)
    found = [layer for layer in of.layers.values() if layer.kind == kind]
    if kind == "conv":
        return tuple(layer for layer in found if max(layer.shape[2:]) > 1 < layer.shape[1])[:1]
    if kind == "norm":
        return tuple(layer for layer in found if not layer.bias)[:1]
    queries = next(layer for layer in found if layer.path.endswith("to_q"))
    inner = (layer for layer in found if re.search(r"(blocks|layers)\.1\.|single\w+blocks\.0\.", layer.path))
    return queries, max(inner, key=lambda layer: layer.shape[0] / layer.shape[1])


def named(cell: Cell) -> dict[str, tuple[int, ...]]:
    """Modules of the cell's file without prefix, as its tools call them -> shape of the weight that they have in mind."""
    algorithm, family = cell.algorithm, cell.family
    if cell.spelling.encoder:
        return _text(cell)
    kinds = {"norm": ("norm",), "locon": ("linear", "conv")}.get(algorithm, ("linear",))
    if cell.spelling.names == "authors":
        if algorithm == "norm":
            name, width = _NORMS[family]
            return {name: (width,)}
        shapes = {**dict(families.ORIGINAL[family]()), **_CONVS}
        names = [name for name in _AUTHORS[family] if "conv" in kinds or len(shapes[name]) == 2]
        if cell.spelling.scheme == "bfl-control":
            names.append("img_in")
        if cell.spelling.scheme == "xlabs":
            names = ["double_blocks.1.img_attn.qkv"]
        found = {name: shapes[name] for name in names}
    else:
        ldm = _LDM if cell.spelling.names == "ldm" else {}
        layers = [layer for kind in kinds for layer in layers_of(family, kind)]
        if cell.spelling.scheme == "old-processor":
            layers = layers[:1]
        found = {ldm.get(layer.path, layer.path): layer.shape for layer in layers}
    if (algorithm, cell.judge) == ("boft", "lycoris"):
        from lycoris.functional.general import power2factorization

        found = {name: shape for name, shape in found.items() if power2factorization(shape[0], 8)[1]}
    assert found
    return found


def _text(cell: Cell) -> dict[str, tuple[int, ...]]:
    """The same for layers of a text encoder, without the level that some of their classes have."""
    words = (
        ("layer_norm1",)
        if cell.algorithm == "norm"
        else ("self_attn.q_proj", "mlp.fc1", "SelfAttention.q", "wi")
    )
    layers = [layer for layer in layout_for(cell).layers.values() if layer.component == cell.spelling.encoder]
    found = {
        layer.path: layer.shape for layer in layers if ".0." in layer.path and layer.path.endswith(words)
    }
    return {path.removeprefix("text_model."): shape for path, shape in found.items()}


def spelt(cell: Cell, name: str, suffix: str) -> str:
    """Name of a tensor in the cell's file; `suffix` is what LyCORIS calls it."""
    spelling = cell.spelling
    suffix = {"lora_up.weight": spelling.up, "lora_down.weight": spelling.down}.get(suffix, suffix)
    if spelling.scheme == "xlabs":
        name = name.replace("img_attn.qkv", "processor.qkv_lora1")
    if spelling.scheme == "old-processor":
        head, _, part = name.rpartition(".")
        name = f"{head}.processor.{part}_lora"
    path = name.replace(".", "_") if spelling.flat else name
    return spelling.prefix.format(component_of(cell)) + f"{path}.{suffix}"


def placed(cell: Cell, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of the file's modules -> rows of the model's layers (by path), as diffusers places them."""
    if cell.spelling.names == "diffusers":
        return dict(rows)
    if cell.spelling.names == "transformers":
        paths = {
            layer.path
            for layer in layout_for(cell).layers.values()
            if layer.component == cell.spelling.encoder
        }
        return {name if name in paths else f"text_model.{name}": tensor for name, tensor in rows.items()}
    family, times = cell.family, _REPEAT.get(cell.family, 1)
    convert = getattr(checkpoints, CONVERTERS[family])
    state = Checkpoint()
    if family in UNET_FAMILIES:
        state.update(
            {f"model.diffusion_model.input_blocks.{n}.0.in_layers.3.weight": torch.zeros(1) for n in range(9)}
        )
        state.update({f"model.diffusion_model.{name}.weight": tensor for name, tensor in rows.items()})
        converted = convert(
            dict(state), {**UNETS[family], "class_embed_type": None, "addition_embed_type": None}
        )
    else:
        state.update(
            {
                f"{name}.weight": torch.zeros(shape[0] * times, 1)
                for name, shape in families.ORIGINAL[family]()
            }
        )
        for name, tensor in rows.items():
            key = f"{name}.{'scale' if name.endswith('query_norm') else 'weight'}"
            state[key] = tensor.repeat_interleave(times, 0)
        converted = convert(state)
    return {
        key.removesuffix(".weight"): tensor[::times]
        for key, tensor in converted.items()
        if tensor is not None and key.endswith(".weight") and bool(tensor.any())
    }


def module_of(weight: Tensor, bias: Tensor | None = None) -> Any:
    """A layer with these parameters."""
    out, into, *kernel = weight.shape
    kind: Any = {2: nn.Linear, 4: nn.Conv2d, 5: nn.Conv3d}[weight.dim()]
    with torch.device("meta"):
        made = kind(into, out, *[tuple(kernel)] * bool(kernel), bias=bias is not None)
    made.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return made


def tree(leaves: Mapping[str, nn.Module]) -> nn.Module:
    """A model with these modules alone, where diffusers' has them."""
    root = nn.Module()
    for path, leaf in leaves.items():
        *parents, last = path.split(".")
        at = root
        for name in parents:
            if name not in at._modules:
                at.add_module(name, nn.Module())
            at = at.get_submodule(name)
        at.add_module(last, leaf)
    return root
