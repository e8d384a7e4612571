"""Detection, naming schemes and matching: tables against what trainers write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.formats.applied import APPLIED
from farm.lora.formats.detect import FAMILY_NAMES
from farm.lora.formats.inspect import AdapterInfo, inspect
from farm.lora.formats.match import check, match
from farm.lora.formats.schemes import name_table
from farm.lora.formats.suffixes import ALGORITHMS, split
from farm.lora.layout import Layer, Layout
from tests.unit.lora.make import attention, header, kohya, layout, lora_tensors, rand

SD1 = layout("sd1")
SDXL = layout("sdxl")
Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
Z = torch.zeros


def lora(
    module: str, out: int = 16, into: int = 16, rank: int = 2, up: str = "lora_up", down: str = "lora_down"
) -> dict[str, Tensor]:
    return {f"{module}.{up}.weight": rand(out, rank), f"{module}.{down}.weight": rand(rank, into)}


def whole_lora(of: Layout) -> dict[str, Tensor]:
    return {k: t for layer in attention(of) for k, t in lora_tensors(layer, kohya(layer)).items()}


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        (lora("lora_unet_x"), "lora"),
        ({"lora_unet_x.lora_up.weight": Z(4, 2, 1, 1), "lora_unet_x.lora_down.weight": Z(2, 4, 3, 3)}, "locon"),
        ({**lora("lora_unet_x"), "lora_unet_x.lora_mid.weight": Z(2, 2, 3, 3)}, "locon"),
        ({**lora("lora_unet_x"), "lora_unet_x.dora_scale": Z(16, 1)}, "dora"),
        ({**lora("unet.x", up="lora_B", down="lora_A"), "unet.x.lora_magnitude_vector": Z(16)}, "dora"),
        ({f"lora_unet_x.hada_{w}": Z(4, 4) for w in ("w1_a", "w1_b", "w2_a", "w2_b")}, "loha"),
        ({"lora_unet_x.lokr_w1": Z(4, 4), "lora_unet_x.lokr_w2_a": Z(4, 2), "lora_unet_x.lokr_w2_b": Z(2, 4)}, "lokr"),
        ({f"lora_unet_x.{w}.weight": Z(4, 4) for w in ("a1", "a2", "b1", "b2")}, "glora"),
        ({"lora_unet_x.weight": Z(4), "lora_unet_x.on_input": torch.tensor(0)}, "ia3"),
        ({"oft_unet_x.oft_blocks": Z(4, 4, 4), "oft_unet_x.alpha": torch.tensor(1.0)}, "oft"),
        ({"base_model.model.x.oft_R.weight": Z(4, 6)}, "oft"),
        ({"lora_unet_x.oft_blocks": Z(2, 4, 4, 4)}, "boft"),
        ({"lora_unet_x.w_norm": Z(4), "lora_unet_x.b_norm": Z(4)}, "norm"),
        ({"lora_unet_x.diff": Z(4, 4), "lora_unet_x.diff_b": Z(4)}, "full"),
    ],
)  # fmt: skip
def test_every_algorithm_is_recognised(tensors: dict[str, Tensor], word: str) -> None:
    info = inspect(header(tensors))
    assert info.type == word
    assert info.types == (word,)
    assert info.layers == 1


def test_a_mixed_file_lists_all_its_algorithms() -> None:
    tensors = {**lora("lora_unet_a"), **lora("lora_unet_b"), "lora_unet_c.w_norm": Z(4)}
    tensors |= {"lora_unet_d.lora_up.weight": Z(4, 2, 1, 1), "lora_unet_d.lora_down.weight": Z(2, 4, 3, 3)}
    info = inspect(header(tensors))
    assert info.types == ("lora", "locon", "norm")
    assert info.type == "locon"
    assert info.ranks == (2,)


@pytest.mark.parametrize(
    ("key", "scheme", "components"),
    [
        ("oft_unet_mid_block_x.oft_blocks", "kohya-oft", ("unet",)),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", "kohya", ("text_encoder",)),
        ("lycoris_mid_block_x.lokr_w1", "lycoris", ("unet",)),
        ("lora_unet__blocks_0_self_attn_q.lora_up.weight", "musubi", ("transformer",)),
        ("unet.mid.attn1.processor.to_q_lora.up.weight", "old-processor", ("unet",)),
        ("text_encoder.x.q_proj.lora_linear_layer.up.weight", "old-diffusers", ("text_encoder",)),
        ("unet.mid.attn1.to_q.lora.up.weight", "old-diffusers", ("unet",)),
        ("diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight", "bfl", ("transformer",)),
        ("model.diffusion_model.input_blocks.1.1.proj_in.lora_up.weight", "comfyui", ("unet",)),
        ("transformer.transformer_blocks.0.attn.to_q.lora_B.weight", "diffusers", ("transformer",)),
        ("unet.mid.attn1.to_q.lora_B.weight", "diffusers", ("unet",)),
        ("base_model.model.mid.attn1.to_q.lora_B.weight", "peft", ("unet",)),
    ],
)
def test_schemes(key: str, scheme: str, components: tuple[str, ...]) -> None:
    tensors = {key: Z(4, 4, 4) if "oft" in key else Z(4, 4)}
    for up, down in (
        ("lora_up", "lora_down"),
        (".up.", ".down."),
        ("lora_B", "lora_A"),
        ("lokr_w1", "lokr_w2"),
    ):
        tensors |= {key.replace(up, down): Z(4, 4)} if up in key else {}
    info = inspect(header(tensors))
    assert (info.scheme, info.components) == (scheme, components)


@pytest.mark.parametrize(
    ("metadata", "module", "into", "word"),
    [
        ({"ss_base_model_version": "sd_v1"}, "lora_unet_x", 8, "sd1"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "lora_unet_x", 8, "sdxl"),
        ({"ss_base_model_version": "flux1"}, "lora_unet_x", 8, "flux1"),
        ({"ss_base_model_version": "demo"}, "lora_unet_x", 8, "demo"),
        ({"modelspec.architecture": "farm-demo/lora"}, "lora_unet_x", 8, "demo"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "lora_unet_x", 8, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "lora_unet_x", 8, "sd2"),
        ({"ss_v2": "True"}, "lora_unet_x", 8, "sd2"),
        ({}, "lora_unet_x_attn2_to_k", 768, "sd1"),
        ({}, "lora_unet_x_attn2_to_v", 1024, "sd2"),
        ({}, "unet.x.attn2.to_k", 2048, "sdxl"),
        ({}, "lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, "sdxl"),
        ({}, "lora_unet_input_blocks_7_1_transformer_blocks_3_attn1_to_q", 1280, "sdxl"),
        ({}, "lora_unet_double_blocks_0_img_attn_qkv", 3072, "flux1"),
        ({}, "lora_unet_joint_blocks_0_x_block_attn_qkv", 1536, "sd3"),
        ({}, "diffusion_model.blocks.0.cross_attn.k", 5120, "wan"),
        ({}, "transformer.transformer_blocks.0.img_mlp.net.2", 3072, "qwenimage"),
        ({}, "diffusion_model.noise_refiner.0.attention.qkv", 3840, "zimage"),
        ({"ss_sd_model_name": "v1-5-pruned.safetensors"}, "lora_unet_x", 8, "sd1"),
        ({}, "lora_unet_x", 8, "unknown"),
    ],
)  # fmt: skip
def test_base_models(metadata: dict[str, str], module: str, into: int, word: str) -> None:
    assert inspect(header(lora(module, into=into), metadata)).base_model == word
    assert word in FAMILY_NAMES


def test_shapes_beat_lying_metadata() -> None:
    info = inspect(header(lora("lora_unet_x_attn2_to_k", into=2048), {"ss_base_model_version": "sd_v1"}))
    assert info.base_model == "sdxl"
    assert "metadata say SD 1.5" in info.problems[0]


def test_metadata_become_words_for_people() -> None:
    metadata = {
        "modelspec.trigger_phrase": "ink wash, brush",
        "ss_tag_frequency": json.dumps(
            {"10_a": {"fox": 2, "ink wash": 9}, "5_b": {"fox": 3, "": 4, "bad": "x"}}
        ),
        "modelspec.title": "Ink\0 wash",
        "modelspec.description": "d",
        "farm.default_strength": "0.8",
        "ss_network_alpha": "4.0",
        "long": "x" * 5000,
    }
    info = inspect(header(lora("lora_unet_x"), metadata), "a/ink.safetensors")
    assert info.trigger_words == ("ink wash", "brush", "fox")
    assert (info.title, info.description, info.default_strength, info.alphas) == (
        "Ink wash",
        "d",
        0.8,
        (4.0,),
    )
    assert len(info.metadata["long"]) == 2000
    assert AdapterInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info


@pytest.mark.parametrize("junk", ["[", "[" * 100_000, "3", '{"a": [1]}', '{"a": {"b": true}}', ""])
def test_junk_in_metadata_is_no_trigger_word(junk: str) -> None:
    metadata = {"ss_tag_frequency": junk, "ss_dataset_dirs": junk, "lora_adapter_metadata": junk}
    info = inspect(header(lora("lora_unet_x"), metadata), "ink.safetensors")
    assert info.trigger_words == ()
    assert info.title == "ink"


def test_folder_names_are_the_last_resort_for_trigger_words() -> None:
    info = inspect(header(lora("lora_unet_x"), {"ss_dataset_dirs": '{"10_inkstyle": {"n": 3}, "x": {}}'}))
    assert info.trigger_words == ("inkstyle",)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"model.diffusion_model.out.0.weight": Z(4)}, "no adapter.*looks like a whole model"),
        ({"clip_l": Z(4)}, "none of its 1 tensors"),
        ({"lora_unet_x.lora_up.weight": Z(4, 2)}, "no complete adapter.*lora_unet_x"),
    ],
)
def test_what_is_no_adapter(tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        inspect(header(tensors))


def test_tensors_of_no_known_kind_are_a_problem_and_never_dropped_in_silence() -> None:
    info = inspect(header({**lora("lora_unet_x"), "lora_unet_x.magic": Z(2), "emb": Z(2)}))
    assert "2 tensors have names of no known kind" in info.problems[0]


def test_a_peft_file_without_its_configuration_says_so() -> None:
    tensors = lora("base_model.model.x", up="lora_B", down="lora_A")
    assert "adapter_config.json" in inspect(header(tensors)).problems[0]
    assert not inspect(header({**tensors, "base_model.model.x.alpha": torch.tensor(1.0)})).problems


def test_split_takes_the_longest_suffix() -> None:
    assert split("a.b.lora_A.default.weight") == ("a.b", "lora_down")
    assert split("lora_unet_a.alpha") == ("lora_unet_a", "alpha")
    assert split("a.attn1.processor.to_k_lora.up.weight") == ("a.attn1.to_k", "lora_up")
    assert split("conv_in.weight") is None


def named(of: Layout, component: str = "unet") -> dict[str, str]:
    """Name of a file -> the one layer that it stands for."""
    return {name: target[0].layer for name, target in name_table(of, component).items() if len(target) == 1}


def sgm(layer: Layer, of: Layout) -> str:
    """LDM name of a layer, as SDXL's trainers write it."""
    table = named(of)
    names = [k for k, name in table.items() if name == layer.name and "put_blocks" in k]
    return "lora_unet_" + names[-1]


@pytest.mark.parametrize("of", [SD1, SDXL], ids=["sd1", "sdxl"])
@pytest.mark.parametrize(
    "spell",
    [
        kohya,
        lambda layer: layer.name,
        lambda layer: f"base_model.model.{layer.name}",
        lambda layer: f"{layer.component}.base_model.model.{layer.path}",
        lambda layer: layer.name.replace("text_encoder.", "text_encoder.text_model."),
    ],
    ids=["kohya", "diffusers", "peft", "component-peft", "text_model"],
)
def test_every_layer_is_found_under_every_spelling(of: Layout, spell: Callable[[Layer], str]) -> None:
    layers = [layer for layer in of.layers.values() if layer.kind in ("linear", "conv")]
    found = match(
        header({k: t for x in layers for k, t in lora_tensors(x, spell(x)).items()}).tensors, {}, of
    )
    assert not found.missed
    assert not found.mismatched
    assert list(found.layers) == [layer.name for layer in layers]
    assert all(found.layers[x.name].module == spell(x) for x in layers)


def test_ldm_names_follow_the_published_numbering() -> None:
    table = named(SDXL)
    expected = {
        "input_blocks_0_0": "conv_in",
        "time_embed_2": "time_embedding.linear_2",
        "label_emb_0_0": "add_embedding.linear_1",
        "input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
        "input_blocks_8_1_transformer_blocks_1_attn2_to_k": "down_blocks.2.attentions.1.transformer_blocks.1.attn2.to_k",
        "middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
        "middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
        "output_blocks_2_1_norm": "up_blocks.0.attentions.2.norm",
        "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_8_0_emb_layers_1": "up_blocks.2.resnets.2.time_emb_proj",
        "out_2": "conv_out",
    }
    assert {name: table[name] for name in expected} == {k: f"unet.{v}" for k, v in expected.items()}
    sd1 = named(SD1)
    assert (
        sd1["output_blocks_2_1_conv"] == sd1["output_blocks_2_2_conv"] == "unet.up_blocks.0.upsamplers.0.conv"
    )
    assert sd1["input_blocks_11_0_in_layers_0"] == "unet.down_blocks.3.resnets.1.norm1"
    assert sd1["output_blocks_11_1_proj_out"] == "unet.up_blocks.3.attentions.2.proj_out"


def test_old_processor_names_are_found() -> None:
    path = Q.removeprefix("unet.").removesuffix(".to_q")
    tensors = {f"{path}.processor.to_{x}_lora.{y}.weight": rand(16, 2) if y == "up" else rand(2, 16) for x in ("q", "out") for y in ("up", "down")}  # fmt: skip
    found = match(header(tensors).tensors, {}, SD1)
    assert set(found.layers) == {Q, Q.replace("to_q", "to_out.0")}


def refused(
    tensors: dict[str, Tensor], of: Layout = SD1, metadata: dict[str, str] | None = None, name: str = "oil-v3"
) -> BadRequest:
    head = header(tensors, metadata)
    with pytest.raises(BadRequest) as caught:
        check(inspect(head), match(head.tensors, head.metadata, of), of, name)
    return caught.value


def test_another_base_model_is_named_in_words() -> None:
    error = refused(whole_lora(SDXL), SD1, {"ss_base_model_version": "sdxl_base_v1-0"})
    assert error.code == "wrong_base_model"
    assert (
        error.message == "oil-v3 was made for SDXL (its cross-attention reads 80 values, this model has 32)"
    )
    error = refused(whole_lora(SD1), SDXL)
    assert error.message == (
        "oil-v3 was made for another model than SDXL (its cross-attention reads 32 values, this model has 80)"
    )
    error = refused(lora("lora_unet_double_blocks_0_img_attn_qkv", 96, 32))
    assert error.message == "oil-v3 was made for Flux.1, this model is SD 1.5"


def test_text_encoder_layers_alone_do_not_make_another_family_fit() -> None:
    te = next(x for x in SD1.layers.values() if x.path.endswith("q_proj"))
    tensors = {**lora_tensors(te, kohya(te)), **lora("lora_unet_double_blocks_0_img_attn_qkv", 96, 32)}
    assert refused(tensors).code == "wrong_base_model"


def test_no_layer_matches_shows_the_nearest() -> None:
    error = refused(lora("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn9_to_q"))
    assert error.code == "no_layer_matches"
    assert "nearest in the model: down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q" in error.message


def test_a_partial_match_is_a_warning_with_numbers() -> None:
    head = header({**whole_lora(SD1), **lora("lora_unet_extra_block")})
    warnings = check(inspect(head), match(head.tensors, {}, SD1), SD1, "ink")
    assert "ink misses 1 of its 129 layers" in warnings[-1]


def test_metadata_of_another_family_with_fitting_shapes_is_a_warning() -> None:
    head = header(whole_lora(SD1), {"ss_base_model_version": "demo"})
    assert (
        "made for the built-in demo model"
        in check(inspect(head), match(head.tensors, {}, SD1), SD1, "ink")[-1]
    )


K = kohya(SD1.layers[Q])


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (lora(K, 16, 17), "gives 16x17, the model's layer has 16x16"),
        ({f"{K}.lora_up.weight": Z(16, 3), f"{K}.lora_down.weight": Z(2, 16)}, "ranks of up and down differ: 3 and 2"),
        ({f"{K}.lora_up.weight": Z(16), f"{K}.lora_down.weight": Z(2, 16)}, "up and down factors have 16 and 2x16"),
        ({**lora(K), f"{K}.alpha": Z(2)}, "no single number"),
        ({f"{K}.lora_up.weight": Z(16, 5000), f"{K}.lora_down.weight": Z(5000, 16)}, "rank is 5000, more than 4096"),
        ({f"{K}.lokr_w1": Z(300, 300), f"{K}.lokr_w2": Z(300, 300)}, "gives 90000x90000"),
        ({f"{K}.hada_w1_a": Z(16, 2), f"{K}.hada_w1_b": Z(2, 16), f"{K}.hada_w2_a": Z(16, 2), f"{K}.hada_w2_b": Z(2, 9)}, "two factors have"),
        ({f"{K}.diff": Z(1, 16)}, "gives 1x16"),
        ({f"{K}.oft_blocks": Z(4, 3, 3)}, "rotates 4 blocks of 3x3"),
        ({f"{K}.oft_blocks": Z(4, 4, 4, 4)}, "4 stages of blocks of 4 do not divide 16"),
        ({f"{K}.oft_blocks": Z(4, 4, 4), f"{K}.rescale": Z(5)}, "rescale has 5"),
        ({f"{K}.weight": Z(5), f"{K}.on_input": torch.tensor(0)}, "scales 5 values"),
        ({f"{K}.a1.weight": Z(16, 2), f"{K}.a2.weight": Z(2, 16), f"{K}.b1.weight": Z(16, 3), f"{K}.b2.weight": Z(2, 16)}, "input factors have [2] values"),
        ({**lora(K), f"{K}.diff_b": Z(16)}, "changes a bias, which the model's layer lacks"),
        ({**lora(K), f"{K}.dora_scale": Z(5, 1)}, "dora_scale has 5x1"),
        ({f"{K}.lora_up.weight": Z(16, 2, dtype=torch.int8), f"{K}.lora_down.weight": Z(2, 16)}, "dtype I8"),
        ({**lora(K), **lora("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q")}, "changes the same layer"),
    ],
)  # fmt: skip
def test_contradicting_shapes_are_refused_with_the_module(tensors: dict[str, Tensor], words: str) -> None:
    other = {k: t for layer in attention(SD1)[5:] for k, t in lora_tensors(layer, kohya(layer)).items()}
    error = refused({**tensors, **other}, name="ink")
    assert error.code == "bad_shapes"
    assert words in error.message


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({f"{K}.diff": Z(16, 16), f"{K}.rescale": Z(16)}, "rescale"),
        ({f"{K}.oft_blocks": Z(4, 4, 4), f"{K}.scale": Z(())}, "scale"),
        ({**lora(K), f"{K}.scale_weight": Z(())}, "scale_weight"),
        ({**lora(K), f"{K}.weight": Z(16, 16)}, "weight"),
        ({**lora(K), f"{K}.diff": Z(16, 16)}, "diff"),
    ],
)
def test_what_the_engine_cannot_apply_is_refused_never_ignored(extra: dict[str, Any], word: str) -> None:
    error = refused(extra)
    assert error.code == "algorithm_not_applied"
    assert f"oil-v3 uses {word}" in error.message


def test_tables_agree() -> None:
    from farm.lora.algorithms.table import READERS

    assert READERS.keys() == APPLIED.keys() <= set(ALGORITHMS)
