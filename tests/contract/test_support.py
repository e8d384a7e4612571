"""Every cell of the table of what Farm loads, judged by the libraries that it names.

LyCORIS (or peft) says what the numbers of a file do to a layer of the shape that the file has in mind; diffusers' own
converters say which outputs of which layers of the model that is. Neither has a line in common with our engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline
from torch import Tensor, nn

from farm.lora.formats.detect import FAMILY_NAMES
from farm.lora.formats.schemes.address import _SCHEMES
from farm.lora.formats.suffixes import ALGORITHMS
from farm.lora.merge import merge
from farm.lora.tensors import load
from tests.contract.test_oracles_lycoris import trained
from tests.support.adapter_files import (
    UNETS,
    component_of,
    layers_of,
    layout_for,
    module_of,
    named,
    placed,
    spelt,
    tree,
)
from tests.unit.lora.make import rand, write
from tools.support import Cell, cells

peft = pytest.importorskip("peft")
pytest.importorskip("lycoris")
pytestmark = pytest.mark.filterwarnings("ignore")

STRENGTHS = (1.0, 0.7, -0.5)
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
    of = layout_for(cell)
    adapter = load(write(folder / "a.safetensors", tensors), of)
    said(cell, adapter)
    component = component_of(cell)
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
    of = layout_for(cell)
    adapter = load(write(folder / "a.safetensors", tensors), of)
    said(cell, adapter)
    ((path, _),) = placed(cell, {name: start[0].detach()}).items()
    component = component_of(cell)
    assert set(adapter.deltas) == {f"{component}.{path}"}
    for strength in STRENGTHS:
        ours = nn.GroupNorm(4, width)
        ours.weight.data, ours.bias.data = start[0].data.clone(), start[1].data.clone()
        merge({component: tree({path: ours})}, of, [(adapter, strength)])
        weight, bias = module.get_merged_weight(strength)
        torch.testing.assert_close(ours.weight.data, weight.data)
        torch.testing.assert_close(ours.bias.data, bias.data)
        assert not torch.equal(weight, start[0])


def judged_by_formula(cell: Cell, folder: Path) -> None:
    ((name, shape),) = named(cell).items()
    weight, change = rand(*shape, seed=1), rand(*shape, seed=2)
    of = layout_for(cell)
    adapter = load(write(folder / "a.safetensors", {spelt(cell, name, "w_norm"): change}), of)
    said(cell, adapter)
    component = component_of(cell)
    ((path, before),) = placed(cell, {name: weight}).items()
    assert set(adapter.deltas) == {f"{component}.{path}"}
    for strength in STRENGTHS:
        ours = nn.RMSNorm(shape[0])
        ours.weight.data = before.clone()
        merge({component: tree({path: ours})}, of, [(adapter, strength)])
        torch.testing.assert_close(ours.weight.data, before + strength * change)


def judged_by_peft(cell: Cell, folder: Path) -> None:
    of = layout_for(cell)
    component = component_of(cell)
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
