"""diffusers, peft and LyCORIS as independent judges of the files that an extraction writes."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn

from farm.lora.budget import Budget
from farm.lora.changes import of_models
from farm.lora.extract import extract
from farm.lora.formats.provenance import Made
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import layer_module
from farm.lora.saving import save_lora
from tests.unit.lora.make import layout, layout_of, modules, rand

pytestmark = pytest.mark.filterwarnings("ignore")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def changed(start: nn.Module, layers: list[Layer], rank: int) -> nn.Module:
    """`start` with a change of this rank in some layers."""
    after = copy.deepcopy(start)
    with torch.no_grad():
        for i, layer in enumerate(layers):
            weight = layer_module(after, layer).weight
            out, rest = layer.shape[0], weight[0].numel()
            change = rand(out, rank, seed=i) @ rand(rank, rest, seed=i + 500)
            assert isinstance(weight, torch.Tensor)
            weight += change.view(weight.shape)
    return after


def extracted(path: Path, of: Layout, before: nn.Module, after: nn.Module, rank: int) -> Path:
    def read(module: nn.Module) -> Any:
        return lambda layer, word: getattr(layer_module(module, layer), word, None)

    kept, report = extract(of_models(of, read(before), read(after)), Budget(rank=rank))
    assert report.error < 1e-5
    save_lora(path, kept, of, Made(title="made", family=of.family, date=NOW, sources=()))
    return path


def only(of: Layout, component: str) -> Layout:
    return replace(of, layers={n: x for n, x in of.layers.items() if x.component == component})


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_loads_a_unet_s_layers_and_gets_the_same_weights(family: str, tmp_path: Path) -> None:
    of = only(layout(family), "unet")
    start = modules(family)["unet"]
    layers = [x for x in of.layers.values() if _read_by_diffusers(x, family)]
    assert any(x.kind == "conv" and x.shape[2:] == (3, 3) for x in layers)
    wanted = changed(start, layers, 3)
    # the layout has both text encoders, which decide how an XL model's file is named
    path = extracted(
        tmp_path / "made.safetensors", replace(layout(family), layers=of.layers), start, wanted, 3
    )
    theirs: Any = copy.deepcopy(start)
    if family == "sdxl":
        found = StableDiffusionXLPipeline.lora_state_dict(load_file(path), unet_config=theirs.config)
    else:
        found = StableDiffusionPipeline.lora_state_dict(load_file(path))
    theirs.load_lora_adapter(found[0], prefix="unet", network_alphas=found[1])
    theirs.fuse_lora(lora_scale=1.0)
    fused = {n.replace(".base_layer", ""): t for n, t in theirs.state_dict().items() if "lora_" not in n}
    moved = 0
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(
            fused[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        moved += not torch.equal(tensor, start.state_dict()[name])
    assert moved == len(layers)


def _read_by_diffusers(layer: Layer, family: str) -> bool:
    if layer.kind == "linear":
        return any(part in layer.path for part in ("attn", "ff.net", "proj_in", "proj_out"))
    return layer.kind == "conv" and ("resnets" in layer.path or family == "sd1") and layer.path.count(".") > 1


def test_diffusers_loads_a_text_encoder_s_layers(tmp_path: Path) -> None:
    of = only(layout("sd1"), "text_encoder")
    start = modules("sd1")["text_encoder"]
    layers = [x for x in of.layers.values() if "self_attn" in x.path and x.kind == "linear"]
    wanted = changed(start, layers, 2)
    path = extracted(tmp_path / "made.safetensors", of, start, wanted, 2)
    theirs: Any = copy.deepcopy(start)
    state, alphas = StableDiffusionPipeline.lora_state_dict(load_file(path))
    StableDiffusionPipeline.load_lora_into_text_encoder(state, alphas, theirs, prefix="text_encoder")
    merged = 0
    for name, module in theirs.named_modules():
        if hasattr(module, "merge") and hasattr(module, "base_layer"):
            module.merge()
            merged += 1
            expected = wanted.get_submodule(name).weight
            torch.testing.assert_close(module.base_layer.weight, expected, rtol=1e-5, atol=1e-5)
            assert not torch.equal(expected, start.get_submodule(name).weight)  # type: ignore[arg-type]
    assert merged == len(layers)


def test_transformers_get_diffusers_names_that_peft_reads(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    base = nn.ModuleDict(
        {"blocks": nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(10, 14), "to_k": nn.Linear(10, 14)})])}
    )
    found = layout_of({"transformer": base}, "flux1")
    layers = [x for x in found.layers.values() if x.path.endswith("to_q")]
    wanted = changed(base, layers, 3)
    path = extracted(tmp_path / "made.safetensors", found, base, wanted, 3)
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=["to_q"])
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    state = {f"base_model.model.{key.removeprefix('transformer.')}": t for key, t in load_file(path).items()}
    peft.set_peft_model_state_dict(theirs, state)
    merged = theirs.merge_and_unload().state_dict()
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 5, 5)), (lambda: nn.Conv2d(6, 8, 1), (2, 6, 3, 3)),
     (lambda: nn.Linear(12, 18), (5, 12))],
)  # fmt: skip
def test_lycoris_reads_each_kind_of_layer(make: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    lycoris = pytest.importorskip("lycoris.modules")
    torch.manual_seed(2)
    base = nn.ModuleDict({"inner": make()}).requires_grad_(False)
    of = layout_of({"unet": base}, "sd1")
    wanted = changed(base, list(of.layers.values()), 3)
    tensors = load_file(extracted(tmp_path / "made.safetensors", of, base, wanted, 3))
    module = lycoris.LoConModule.make_module_from_state_dict(
        "m", base["inner"], *(tensors.get(f"lora_unet_inner.{end}") for end in (
            "lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "dora_scale"
        ))
    )  # fmt: skip
    module.apply_to()
    x = torch.randn(shape)
    torch.testing.assert_close(base["inner"](x), wanted["inner"](x), rtol=1e-4, atol=1e-4)
