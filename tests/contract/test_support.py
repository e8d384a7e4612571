"""Every cell of the table of what Farm loads, judged by the libraries that it names.

LyCORIS (or peft) says what the numbers of a file do to a layer of the shape that the file has in mind; diffusers' own
converters say which outputs of which layers of the model that is. Neither has a line in common with our engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils as checkpoints
from lycoris.functional.general import power2factorization
from torch import Tensor, nn

from farm.lora.formats.detect import FAMILY_NAMES
from farm.lora.formats.schemes.address import _SCHEMES
from farm.lora.formats.suffixes import ALGORITHMS
from farm.lora.layout import Layer, Layout
from farm.lora.merge import merge
from farm.lora.tensors import load
from tests.contract.test_oracles_lycoris import trained
from tests.contract.test_oracles_names import Checkpoint
from tests.support.tiny import SD15_UNET, SDXL_UNET
from tests.unit.lora import families
from tests.unit.lora.make import layout_of, rand, write
from tools.support import CONVERTERS, UNET_FAMILIES, Cell, cells

peft = pytest.importorskip("peft")
pytest.importorskip("lycoris")
pytestmark = pytest.mark.filterwarnings("ignore")

STRENGTHS = (1.0, 0.7, -0.5)
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
_MODULES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoConModule", {"lora_dim": 3, "alpha": 1.5}),
    "locon": ("LoConModule", {"lora_dim": 3, "alpha": 1.5}),
    "dora": ("LoConModule", {"lora_dim": 3, "alpha": 3, "weight_decompose": True}),
    "loha": ("LohaModule", {"lora_dim": 3, "alpha": 1.5}),
    "lokr": ("LokrModule", {"lora_dim": 1, "alpha": 0.5, "decompose_both": True, "factor": 4}),
    "glora": ("GLoRAModule", {"lora_dim": 2, "alpha": 1}),
    "ia3": ("IA3Module", {}),
    "oft": ("DiagOFTModule", {"lora_dim": 4, "constraint": 0.02}),
    "boft": ("ButterflyOFTModule", {"lora_dim": 8}),
    "norm": ("NormModule", {}),
    "full": ("FullModule", {}),
}
_PEFT: Mapping[str, Callable[[list[str]], Any]] = {
    "lora": lambda names: peft.LoraConfig(r=3, lora_alpha=5, target_modules=names),
    "locon": lambda names: peft.LoraConfig(r=3, lora_alpha=5, target_modules=names),
    "dora": lambda names: peft.LoraConfig(r=3, lora_alpha=5, target_modules=names, use_dora=True),
    "loha": lambda names: peft.LoHaConfig(r=3, alpha=5, target_modules=names),
    "lokr": lambda names: peft.LoKrConfig(r=1, alpha=3, target_modules=names, decompose_both=True),
    "ia3": lambda names: peft.IA3Config(target_modules=names, feedforward_modules=names[:1]),
    "oft": lambda names: peft.OFTConfig(oft_block_size=2, r=0, target_modules=names),
    "boft": lambda names: peft.BOFTConfig(boft_block_size=2, target_modules=names),
}


@cache
def layout(family: str) -> Layout:
    """The whole tiny model's; its names depend on what other layers it has."""
    if family in UNETS:
        with torch.device("meta"):
            return layout_of({"unet": UNet2DConditionModel(**UNETS[family])}, family)
    return families.layout(family)


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
        found = {name: shape for name, shape in found.items() if power2factorization(shape[0], 8)[1]}
    assert found
    return found


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
    return spelling.prefix.format(layout(cell.family).denoisers[0]) + f"{path}.{suffix}"


def placed(cell: Cell, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows of the file's modules -> rows of the model's layers (by path), as diffusers places them."""
    if cell.spelling.names == "diffusers":
        return dict(rows)
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


def outputs(module: nn.Module, x: Tensor) -> Tensor:
    """(outputs, positions)"""
    with torch.no_grad():
        made: Tensor = module(x)
    return made.T if made.dim() == 2 else made.transpose(0, 1).flatten(1)


def judged_by_lycoris(cell: Cell, folder: Path) -> None:
    name_of, options = _MODULES[cell.algorithm]
    tensors: dict[str, Tensor] = {}
    pristine: dict[str, Tensor] = {}
    fed: dict[str, Tensor] = {}
    theirs: dict[str, dict[float, Tensor]] = {}
    for seed, (name, shape) in enumerate(named(cell).items()):
        base = module_of(rand(*shape, seed=seed))
        x = (
            rand(3, shape[1], seed=seed + 50)
            if len(shape) == 2
            else rand(1, shape[1], *[k + 1 for k in shape[2:]])
        )
        module = trained(name_of, base, options)
        start = outputs(base, x)
        module.apply_to()
        made = {}
        for strength in STRENGTHS:
            module.multiplier = strength
            made[strength] = outputs(base, x)
            if cell.algorithm == "dora":
                # trainers differ away from 1; ours is the line from the model to what was trained
                made[strength] = start + strength * (made[1.0] - start)
        theirs[name], fed[name], pristine[name] = made, x, rand(*shape, seed=seed)
        for suffix, tensor in module.state_dict().items():
            if cell.spelling.alpha or not suffix.startswith(("alpha", "lora_up")):
                tensors[spelt(cell, name, suffix)] = tensor.detach()
            elif suffix != "alpha":
                tensors[spelt(cell, name, suffix)] = tensor.detach() * module.scale
    of = layout(cell.family)
    adapter = load(write(folder / "a.safetensors", tensors), of)
    said(cell, adapter)
    component = of.denoisers[0]
    weights, changes = placed(cell, pristine), 0
    assert {f"{component}.{path}" for path in weights} == set(adapter.deltas)
    for strength in STRENGTHS:
        leaves = {path: module_of(weight) for path, weight in weights.items()}
        merge({component: tree(leaves)}, of, [(adapter, strength)])
        for name, made in theirs.items():
            for path, expected in placed(cell, {name: made[strength]}).items():
                ours = outputs(leaves[path], fed[name])
                torch.testing.assert_close(
                    ours, expected, rtol=1e-4, atol=1e-5, msg=lambda t, p=path: f"{p}: {t}"
                )
                changes += not torch.allclose(leaves[path].weight, weights[path], atol=1e-4)
    assert changes == len(STRENGTHS) * len(weights)


def judged_by_lycoris_norm(cell: Cell, folder: Path) -> None:
    """LyCORIS has group and layer norms, with a weight and a bias."""
    ((name, (width,)),) = named(cell).items()
    base = nn.GroupNorm(4, width)
    base.weight.data, base.bias.data = rand(width, seed=1), rand(width, seed=2)
    start = (base.weight.clone(), base.bias.clone())
    module = trained("NormModule", base, {})
    tensors = {spelt(cell, name, suffix): t.detach() for suffix, t in module.state_dict().items()}
    of = layout(cell.family)
    adapter = load(write(folder / "a.safetensors", tensors), of)
    said(cell, adapter)
    ((path, _),) = placed(cell, {name: start[0].detach()}).items()
    assert set(adapter.deltas) == {f"unet.{path}"}
    for strength in STRENGTHS:
        ours = nn.GroupNorm(4, width)
        ours.weight.data, ours.bias.data = start[0].data.clone(), start[1].data.clone()
        merge({"unet": tree({path: ours})}, of, [(adapter, strength)])
        weight, bias = module.get_merged_weight(strength)
        torch.testing.assert_close(ours.weight.data, weight.data)
        torch.testing.assert_close(ours.bias.data, bias.data)
        assert not torch.equal(weight, start[0])


def judged_by_formula(cell: Cell, folder: Path) -> None:
    ((name, shape),) = named(cell).items()
    weight, change = rand(*shape, seed=1), rand(*shape, seed=2)
    of = layout(cell.family)
    adapter = load(write(folder / "a.safetensors", {spelt(cell, name, "w_norm"): change}), of)
    said(cell, adapter)
    component = of.denoisers[0]
    ((path, before),) = placed(cell, {name: weight}).items()
    assert set(adapter.deltas) == {f"{component}.{path}"}
    for strength in STRENGTHS:
        ours = nn.RMSNorm(shape[0])
        ours.weight.data = before.clone()
        merge({component: tree({path: ours})}, of, [(adapter, strength)])
        torch.testing.assert_close(ours.weight.data, before + strength * change)


def judged_by_peft(cell: Cell, folder: Path) -> None:
    of = layout(cell.family)
    component = of.denoisers[0]
    start = {}
    for seed, (name, shape) in enumerate(named(cell).items()):
        bias = rand(shape[0], seed=seed) if of.layers[f"{component}.{name}"].bias else None
        start[name] = (rand(*shape, seed=seed), bias)
    wrapped = peft.get_peft_model(
        tree({name: module_of(*values) for name, values in start.items()}), _PEFT[cell.algorithm](list(start))
    )
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    adapter = load(saved(cell, wrapped, folder), of)
    said(cell, adapter)
    assert set(adapter.deltas) == {f"{component}.{name}" for name in start}
    merged = wrapped.merge_and_unload()
    for strength in STRENGTHS:
        leaves = {name: module_of(*values) for name, values in start.items()}
        merge({component: tree(leaves)}, of, [(adapter, strength)])
        for name, values in start.items():
            expected = merged.get_submodule(name)
            for before, trained_, ours in zip(
                values,
                (expected.weight, expected.bias),
                (leaves[name].weight, leaves[name].bias),
                strict=True,
            ):
                if before is not None:
                    # peft has no strengths for most of these; ours lie on the line through its two points
                    wanted = before + strength * (trained_.detach() - before)
                    torch.testing.assert_close(ours.data, wanted, rtol=1e-5, atol=1e-5)
            assert not torch.allclose(expected.weight, values[0], atol=1e-4)


def saved(cell: Cell, wrapped: Any, folder: Path) -> Path:
    """The file that peft (or diffusers) writes."""
    if cell.spelling.scheme == "peft":
        wrapped.save_pretrained(folder)
        return folder / "adapter_model.safetensors"
    state = peft.get_peft_model_state_dict(wrapped)
    state = {key.removeprefix("base_model.model."): tensor for key, tensor in state.items()}
    word = "unet" if cell.family in UNETS else "transformer"
    writer: Any = StableDiffusionPipeline if cell.family in UNETS else FluxPipeline
    config = wrapped.peft_config["default"].to_dict()
    writer.save_lora_weights(
        folder, **{f"{word}_lora_layers": state, f"{word}_lora_adapter_metadata": config}
    )
    return folder / "pytorch_lora_weights.safetensors"


def said(cell: Cell, adapter: Any) -> None:
    """What detection says of the file is what the table calls it."""
    assert (adapter.info.scheme, adapter.info.type) == (cell.spelling.scheme, cell.algorithm)
    assert not adapter.missed


RUN: Mapping[str, Callable[[Cell, Path], None]] = {
    "lycoris": judged_by_lycoris,
    "peft": judged_by_peft,
    "formula": judged_by_formula,
}


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=f"{cell.family}-{cell.spelling.scheme}-{cell.spelling.prefix}-{cell.algorithm}")
        for cell in cells()
    ],
)
def test_a_cell_is_what_its_judge_says(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: False)
    torch.manual_seed(5)
    if (cell.algorithm, cell.judge) == ("norm", "lycoris"):
        judged_by_lycoris_norm(cell, tmp_path)
    else:
        RUN[cell.judge](cell, tmp_path)


def test_the_table_has_every_algorithm_scheme_and_family() -> None:
    table = list(cells())
    assert {cell.algorithm for cell in table} == set(ALGORITHMS)
    assert {cell.spelling.scheme for cell in table} == {scheme for scheme, _ in _SCHEMES}
    assert {cell.family for cell in table} == FAMILY_NAMES.keys() - {"demo", "unknown"}
    # every family has every algorithm in some scheme, as far as it has such layers
    for family in {cell.family for cell in table}:
        lacking = set(ALGORITHMS) - {cell.algorithm for cell in table if cell.family == family}
        assert lacking <= {"locon", "norm"}
        assert not ("norm" in lacking and layers_of(family, "norm"))
        assert not ("locon" in lacking and layers_of(family, "conv"))


def test_a_cell_whose_judge_does_not_know_it_fails(tmp_path: Path) -> None:
    cell = next(cell for cell in cells() if cell.spelling.scheme == "peft")
    with pytest.raises(KeyError):
        judged_by_peft(replace(cell, algorithm="glora"), tmp_path)
    with pytest.raises(AssertionError):
        judged_by_lycoris(
            replace(cell, algorithm="glora", spelling=replace(cell.spelling, scheme="kohya")), tmp_path
        )
