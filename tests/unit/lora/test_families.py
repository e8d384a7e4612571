"""What the header of a file tells, for every family and scheme, and how files meet models of the transformer families."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import BadRequest
from farm.lora.formats.detect import FAMILY_NAMES
from farm.lora.formats.header import Header, TensorInfo
from farm.lora.formats.inspect import AdapterInfo, inspect
from farm.lora.formats.match import Match, check, match
from farm.lora.formats.metadata import PEFT_ENTRY
from farm.lora.layout import Layout
from farm.lora.tensors import load
from farm.models.families import layout as lay_out
from tests.unit.lora import families
from tests.unit.lora.make import header, lora_tensors, rand, write
from tests.unit.lora.make import layout as unet_layout

Shape = tuple[int, ...]
KOHYA, PEFT = ("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight")


def info(shape: Shape) -> TensorInfo:
    return TensorInfo(dtype="BF16", shape=shape, begin=0, end=2 * math.prod(shape))


def file(
    modules: dict[str, Shape], suffixes: tuple[str, str] = PEFT, metadata: dict[str, str] | None = None
) -> Header:
    """The header of a LoRA of rank 2."""
    tensors = {}
    for module, (out, *rest) in modules.items():
        tensors[f"{module}.{suffixes[0]}"] = info((out, 2, *[1 for _ in rest[1:]]))
        tensors[f"{module}.{suffixes[1]}"] = info((2, *rest))
    return Header(tensors=tensors, metadata=metadata or {}, size=8)


def kohya(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def comfyui(name: str) -> str:
    return f"diffusion_model.{name}"


def met(head: Header, of: Layout) -> tuple[AdapterInfo, Match, tuple[str, ...]]:
    """What `head` says, how it meets `of`, and the warnings."""
    found, said = match(head.tensors, head.metadata, of), inspect(head)
    return said, found, check(said, found, of, "ink")


@pytest.mark.parametrize(
    "spell", [kohya, comfyui, "base_model.model.{}".format, "transformer.{}".format, str]
)
@pytest.mark.parametrize("family", families.ORIGINAL)
def test_every_name_of_the_authors_finds_its_layers(family: str, spell: Callable[[str], str]) -> None:
    of = families.layout(family)
    names = dict(families.ORIGINAL[family]())
    head = file({spell(name): shape for name, shape in names.items()}, KOHYA if spell is kohya else PEFT)
    said, found, _ = met(head, of)
    assert (found.missed, found.mismatched, found.doubled) == ((), (), ())
    assert (said.layers, found.modules, said.ranks, said.types[0]) == (len(names), len(names), (2,), "lora")
    # every number of every layer's outputs comes from the file once
    assert sum(of.layers[name].shape[0] for name in found.layers) == sum(shape[0] for shape in names.values())
    if family != "hidream":
        able = {n for n, layer in of.layers.items() if layer.kind == "linear"}
        assert able <= found.layers.keys()


@pytest.mark.parametrize(
    "spell", [kohya, comfyui, "lora_transformer_{}".format, "lycoris_{}".format, "transformer.{}".format]
)
@pytest.mark.parametrize("family", families.CONFIGS)
def test_diffusers_names_find_their_layers(family: str, spell: Callable[[str], str]) -> None:
    of = families.layout(family)
    layers = [layer for layer in of.layers.values() if layer.kind == "linear"]
    flat = not spell("x.y").endswith(".x.y")
    names = [spell(layer.path.replace(".", "_") if flat else layer.path) for layer in layers]
    head = file(dict(zip(names, (layer.shape for layer in layers), strict=True)))
    _, found, warnings = met(head, of)
    assert [file.module for file in found.layers.values()] == names
    assert not [text for text in warnings if "shapes fit" not in text]


#: scheme, module, inputs and outputs as published files have them, and the family that it must be
PUBLISHED: list[tuple[str, str, Shape, str]] = [
    ("kohya", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", (320, 768), "sd1"),
    ("kohya", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", (320, 1024), "sd2"),
    ("kohya", "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", (640, 2048), "sdxl"),
    ("kohya", "lora_unet_joint_blocks_3_x_block_attn_qkv", (4608, 1536), "sd3"),
    ("diffusers", "transformer.transformer_blocks.9.attn.add_q_proj", (2432, 2432), "sd3"),
    ("kohya", "lora_unet_double_blocks_18_img_attn_qkv", (9216, 3072), "flux1"),
    ("bfl", "diffusion_model.single_blocks.3.linear1", (21504, 3072), "flux1"),
    ("diffusers", "transformer.single_transformer_blocks.3.proj_mlp", (12288, 3072), "flux1"),
    ("diffusers", "transformer.transformer_blocks.3.attn.to_q", (3072, 3072), "flux1"),
    ("xlabs", "double_blocks.3.processor.qkv_lora1", (9216, 3072), "flux1"),
    ("bfl", "diffusion_model.single_blocks.3.linear1", (55296, 6144), "flux2"),
    ("bfl", "diffusion_model.single_blocks.3.linear1", (27648, 3072), "flux2"),
    ("diffusers", "transformer.single_transformer_blocks.47.attn.to_qkv_mlp_proj", (55296, 6144), "flux2"),
    ("bfl", "diffusion_model.double_blocks.3.img_mlp.0", (36864, 6144), "flux2"),
    ("kohya", "lora_unet_distilled_guidance_layer_layers_0_in_layer", (5120, 5120), "chroma"),
    ("musubi", "lora_unet_blocks_3_self_attn_q", (5120, 5120), "wan"),
    ("musubi", "lora_unet__blocks_3_ffn_0", (13824, 5120), "wan"),
    ("comfyui", "diffusion_model.blocks.3.cross_attn.k_img", (5120, 5120), "wan"),
    ("diffusers", "transformer.blocks.3.attn1.to_q", (5120, 5120), "wan"),
    ("kohya", "lora_unet_transformer_blocks_3_img_mod_1", (18432, 3072), "qwenimage"),
    ("diffusers", "transformer.transformer_blocks.59.attn.to_q", (3072, 3072), "qwenimage"),
    ("comfyui", "diffusion_model.layers.3.attention.qkv", (11520, 3840), "zimage"),
    ("comfyui", "diffusion_model.layers.3.attention.to_q", (3840, 3840), "zimage"),
    ("kohya", "lora_unet_double_blocks_19_img_attn_qkv", (9216, 3072), "hunyuanvideo"),
    ("kohya", "lora_unet_double_blocks_3_img_mlp_fc1", (12288, 3072), "hunyuanvideo"),
    ("bfl", "diffusion_model.double_blocks.3.img_mod.linear", (18432, 3072), "hunyuanvideo"),
    ("comfyui", "diffusion_model.transformer_blocks.3.attn1.to_q", (2048, 2048), "ltxv"),
    ("diffusers", "transformer.transformer_blocks.3.attn2.to_k", (4096, 4096), "ltxv"),
    ("kohya", "lora_unet_layers_3_attention_qkv", (3840, 2304), "lumina2"),
    ("comfyui", "diffusion_model.double_stream_blocks.3.block.attn1.to_q", (2560, 2560), "hidream"),
    ("diffusers", "transformer.joint_transformer_blocks.3.attn.to_q", (3072, 3072), "auraflow"),
    ("comfyui", "diffusion_model.single_layers.3.attn.w1q", (3072, 3072), "auraflow"),
    ("diffusers", "transformer.transformer_blocks.3.attn1.to_q", (2240, 2240), "sana"),
    ("comfyui", "diffusion_model.blocks.3.cross_attn.kv_linear", (4480, 2240), "sana"),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "module", "shape", "family"), PUBLISHED)
def test_family_and_scheme_without_metadata(scheme: str, module: str, shape: Shape, family: str) -> None:
    suffixes = ("up.weight", "down.weight") if scheme == "xlabs" else PEFT
    said = inspect(file({module: shape}, suffixes))
    assert (said.base_model, said.scheme) == (family, scheme)
    assert said.problems == ()
    # a trainer that writes its metadata rightly is believed, one that lies is not
    assert inspect(file({module: shape}, suffixes, {"modelspec.architecture": family})).base_model in (
        family,
        "unknown",
    )


def test_the_list_above_has_every_family() -> None:
    assert {row[3] for row in PUBLISHED} == FAMILY_NAMES.keys() - {"demo", "unknown"}


@pytest.mark.parametrize(
    ("lie", "module", "shape", "family", "why"),
    [
        ("flux-1-dev", "diffusion_model.single_blocks.0.linear1", (27648, 3072), "flux2", "makes 27648 values of 3072"),
        ("lumina-2", "diffusion_model.layers.0.attention.out", (3840, 3840), "zimage", "reads 3840 values"),
        ("flux-1-dev", "transformer.transformer_blocks.0.attn.to_q", (1536, 1536), "sd3", "reads 1536 values"),
    ],
)  # fmt: skip
def test_shapes_contradict_metadata(lie: str, module: str, shape: Shape, family: str, why: str) -> None:
    said = inspect(file({module: shape}, PEFT, {"modelspec.architecture": lie}))
    assert said.base_model == family
    assert why in said.problems[0]


def test_metadata_decide_where_names_and_shapes_are_shared() -> None:
    module = {"lora_unet_double_blocks_0_img_mlp_0": (12288, 3072)}
    assert inspect(file(module, KOHYA, {"ss_base_model_version": "chroma"})) == replace(
        inspect(file(module, KOHYA)), base_model="chroma", metadata={"ss_base_model_version": "chroma"}
    )


def whole(family: str, spell: Callable[[str], str] = comfyui) -> dict[str, Shape]:
    return {spell(name): shape for name, shape in families.ORIGINAL[family]()}


def test_a_file_for_another_model_is_refused_in_words() -> None:
    with pytest.raises(BadRequest) as caught:
        met(file(whole("wan")), families.layout("flux1"))
    assert (caught.value.code, caught.value.message) == (
        "wrong_base_model",
        "ink was made for Wan, this model is Flux.1",
    )
    smaller = families.layout_of({"transformer": families.model("wan", attention_head_dim=6)}, "wan")
    with pytest.raises(
        BadRequest, match=r"another model than Wan \(.*it gives 24x.*the model's layer has 12x"
    ):
        met(file(whole("wan")), smaller)


def test_a_partial_match_names_the_first_three() -> None:
    modules = whole("zimage") | {f"diffusion_model.layers.{n}.attention.qkv": (72, 24) for n in range(2, 7)}
    *_, warnings = met(file(modules), families.layout("zimage"))
    assert warnings == (
        "ink misses 5 of its 45 layers: this model lacks them (first: diffusion_model.layers.2.attention.qkv, "
        "diffusion_model.layers.3.attention.qkv, diffusion_model.layers.4.attention.qkv)",
    )


def test_more_input_channels_are_a_reason() -> None:
    modules = dict(families.flux1()) | {"img_in": (16, 8)}
    with pytest.raises(
        BadRequest,
        match=r"img_in: it gives 16x8, .* 16x4, so it is made for a variant .* \(control, inpainting\)",
    ):
        met(file(modules), families.layout("flux1"))


def test_fused_modules_beside_their_parts_are_told() -> None:
    names = [f"layers.0.attention.{name}" for name in ("to_q", "to_k", "to_v")]
    modules = {comfyui("layers.0.attention.qkv"): (72, 24)} | {comfyui(name): (24, 24) for name in names}
    _, found, warnings = met(file(modules), families.layout("zimage"))
    assert {layer.module for layer in found.layers.values()} == {comfyui(name) for name in names}
    assert "1 fused modules beside modules for each of their layers" in warnings[0]
    del modules[comfyui("layers.0.attention.to_v")]
    with pytest.raises(BadRequest, match="changes the same layer"):
        met(file(modules), families.layout("zimage"))


def test_unknown_suffixes_are_counted() -> None:
    head = file(whole("wan"))
    extra = {comfyui(f"blocks.{n}.diff_m"): info((1, 6, 24)) for n in range(2)}
    said = inspect(replace(head, tensors={**head.tensors, **extra}))
    assert "2 tensors have names of no known kind and will not be used" in said.problems[0]


@pytest.mark.parametrize("family", ["flux1", "sd3", "zimage", "wan"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_tensors_means_nothing(family: str, seed: int) -> None:
    head = file(whole(family) | {"diffusion_model.nothing": (4, 4)})
    keys = list(head.tensors)
    random.Random(seed).shuffle(keys)
    other = replace(head, tensors={key: head.tensors[key] for key in keys})
    (said, found, told), (said2, found2, told2) = (
        met(head, families.layout(family)),
        met(other, families.layout(family)),
    )
    assert (said, told) == (said2, told2)
    assert list(found.layers.items()) == list(found2.layers.items())


def two_experts() -> Layout:
    both = {name: families.model("wan") for name in ("transformer", "transformer_2")}
    return families.layout_of(both, "wan")


EXPERTS = two_experts()


def test_a_file_for_either_expert_fits_both(tmp_path: Path) -> None:
    path = "blocks.0.attn1.to_q"
    tensors = {
        "diffusion_model.blocks.0.self_attn.q.lora_B.weight": rand(24, 2),
        "diffusion_model.blocks.0.self_attn.q.lora_A.weight": rand(2, 24),
    }
    adapter = load(write(tmp_path / "a.safetensors", tensors), EXPERTS)
    assert set(adapter.deltas) == {f"transformer.{path}", f"transformer_2.{path}"}
    assert len({id(delta) for delta in adapter.deltas.values()}) == 1
    assert adapter.bytes == 4 * 96
    assert adapter.info.expert == ""


@pytest.mark.parametrize(
    ("names", "expert"),
    [(("transformer_2",), "low"), (("transformer", "transformer_2"), "both"), (("transformer",), "")],
)
def test_a_file_that_names_the_second_expert(names: tuple[str, ...], expert: str) -> None:
    said, found, _ = met(file({f"{name}.blocks.0.attn1.to_q": (24, 24) for name in names}), EXPERTS)
    assert said.expert == expert
    wanted = names if len(names) == 2 or expert else ("transformer", "transformer_2")
    assert list(found.layers) == [f"{name}.blocks.0.attn1.to_q" for name in wanted]


@pytest.mark.parametrize(
    ("metadata", "expert"),
    [
        ({"modelspec.title": "Fox high noise"}, "high"), ({"ss_output_name": "fox_low_noise"}, "low"),
        ({"modelspec.title": "fox", "ss_sd_model_name": "wan2.2_t2v_high_noise_14B"}, "high"),
        ({"modelspec.title": "Highlands"}, ""), ({"name": "wan high low"}, ""),
    ],
)  # fmt: skip
def test_names_in_the_metadata_choose_an_expert(metadata: dict[str, str], expert: str) -> None:
    assert inspect(file(whole("wan"), PEFT, metadata)).expert == expert


def test_scales_of_peft_reach_both_experts(tmp_path: Path) -> None:
    metadata = {
        PEFT_ENTRY: '{"transformer.r": 2, "transformer.lora_alpha": 6, "transformer.use_rslora": true}'
    }
    tensors = {
        "transformer.blocks.0.attn1.to_q.lora_B.weight": rand(24, 2),
        "transformer.blocks.0.attn1.to_q.lora_A.weight": rand(2, 24),
    }
    adapter = load(write(tmp_path / "a.safetensors", tensors, metadata), EXPERTS)
    for delta in adapter.deltas.values():
        change = delta.change(torch.zeros(24, 24), 1.0)
        assert change is not None
        up, down = tensors.values()
        torch.testing.assert_close(change, 6 / 2**0.5 * (up @ down))


def test_open_clip_names_of_text_encoders(tmp_path: Path) -> None:
    of = unet_layout("sdxl")
    name = "lora_te2_transformer_resblocks_1_"
    layer = of.layers["text_encoder_2.text_model.encoder.layers.1.mlp.fc1"]
    fused = replace(of.layers["text_encoder_2.text_model.encoder.layers.1.self_attn.q_proj"], shape=(96, 32))
    tensors = lora_tensors(layer, f"{name}mlp_c_fc") | lora_tensors(fused, f"{name}attn_in_proj")
    found = match(header(tensors).tensors, {}, of)
    start = "text_encoder_2.text_model.encoder.layers.1."
    parts = [f"{start}self_attn.{part}_proj" for part in "qkv"]
    assert set(found.layers) == {layer.name, *parts}
    adapter = load(write(tmp_path / "a.safetensors", tensors), of)
    changes = [adapter.deltas[part].change(torch.zeros(32, 32), 1.0) for part in parts]
    up, down = tensors[f"{name}attn_in_proj.lora_up.weight"], tensors[f"{name}attn_in_proj.lora_down.weight"]
    torch.testing.assert_close(torch.cat([change for change in changes if change is not None]), up @ down / 2)


def test_t5_is_the_last_text_encoder() -> None:
    of = replace(unet_layout("sdxl"), family="flux1")
    layers = [
        layer
        for layer in of.layers.values()
        if layer.component == "text_encoder_2" and layer.kind == "linear"
    ][:3]
    names = {"lora_te3_" + layer.path.replace(".", "_"): layer.shape for layer in layers}
    names |= {f"text_encoders.t5xxl.transformer.{layer.path}": layer.shape for layer in layers[:1]}
    found = match(file(names).tensors, {}, of)
    assert list(found.layers) == [layer.name for layer in layers]
    assert "changes the same layer" in found.mismatched[0]


@pytest.mark.parametrize("family", families.CONFIGS)
def test_layouts_from_configs_answer_to_the_same_names(family: str) -> None:
    """Farm lays models out without their weights; the names must meet those layouts as they meet the models."""
    config = {"_class_name": families.CONFIGS[family][0], **families.CONFIGS[family][1]}
    of = lay_out(family, {"transformer": config})
    found = match(file(whole(family)).tensors, {}, of)
    assert (found.missed, found.mismatched) == ((), ())
    assert found.layers == match(file(whole(family)).tensors, {}, families.layout(family)).layers
