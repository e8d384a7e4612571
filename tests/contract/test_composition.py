"""Tags that are composed: what they say is measured on the weights of models with the blocks of real ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from farm.lora.branch import SideBranch
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import Patcher
from farm.lora.tensors import Adapter
from farm.lora.tensors import load as load_adapter
from farm.models import families
from farm.prompt.resolve import AdapterRef, plan
from farm.prompt.tags import parse
from tests.support.tiny import SD15_UNET, SDXL_UNET
from tests.unit.lora.make import kohya, modules, rand, write
from tests.unit.lora.small import SMALL, small
from tests.unit.prompt.test_blocks import SHIPPED

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [f"n{n}" for n in range(6)]
REFS = {name: AdapterRef(name=name, sha256=name) for name in NAMES}
Factors = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Model:
    """A whole tiny model with a change of rank 4 for one layer of each region, in a file."""

    modules: Mapping[str, nn.Module]
    layout: Layout
    factors: Factors
    adapter: Adapter

    def strengths(self, prompt: str, steps: int = 1, step: int = 1) -> dict[str, float]:
        """By layer: how much of its change is in its weight while `step` is denoised."""
        patcher = Patcher(self.modules, self.layout)
        resolved = plan(parse(prompt).tags, REFS, self.layout, steps).plan
        layers = [self.layout.layers[name] for name in self.factors]
        before = [weight_of(self.modules, layer).double() for layer in layers]
        patcher.apply(resolved, dict.fromkeys(NAMES, self.adapter), step)
        found = {}
        for layer, start in zip(layers, before, strict=True):
            up, down = self.factors[layer.name]
            change = (up @ down).double().view(layer.shape)
            moved = weight_of(self.modules, layer).double() - start
            found[layer.name] = float((moved * change).sum() / (change * change).sum())
            torch.testing.assert_close(moved, found[layer.name] * change, atol=1e-5, rtol=1e-4)
        patcher.restore()
        return found


def weight_of(parts: Mapping[str, nn.Module], layer: Layer) -> Tensor:
    found = parts[layer.component].get_submodule(layer.path).weight
    assert isinstance(found, Tensor)
    return found.detach()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    @cache
    def make(family: str) -> Model:
        if family == "flux1":
            parts, configs = flux()
        else:
            parts = modules(family)
            configs = {name: dict(part.config.to_dict()) for name, part in parts.items() if name != "unet"}  # type: ignore[union-attr, operator]
            configs["unet"] = dict(SDXL_UNET if family == "sdxl" else SD15_UNET)
            for name in ("text_encoder", "text_encoder_2"):
                if name in configs:
                    configs[name]["_class_name"] = type(parts[name]).__name__
        of = families.layout(family, configs)
        first = {}
        for layer in of.layers.values():
            if layer.kind in ("linear", "conv") and (layer.component in parts):
                first.setdefault(layer.region, layer)
        factors, tensors = {}, {}
        for seed, layer in enumerate(first.values()):
            out, *rest = layer.shape
            factors[layer.name] = rand(out, 4, seed=seed), rand(4, torch.Size(rest).numel(), seed=seed + 1)
            tensors[f"{layer.name}.lora_B.weight"] = factors[layer.name][0]
            tensors[f"{layer.name}.lora_A.weight"] = factors[layer.name][1]
            if len(rest) > 1:
                tensors[f"{layer.name}.lora_B.weight"] = factors[layer.name][0][..., None, None]
                tensors[f"{layer.name}.lora_A.weight"] = factors[layer.name][1].view(4, *rest)
        path = write(tmp_path_factory.mktemp(family) / "a.safetensors", tensors)
        adapter = load_adapter(path, of)
        assert set(adapter.deltas) == set(factors)
        return Model(parts, of, factors, adapter)

    return make


def flux() -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """As many blocks as Flux.1 has, very narrow."""
    torch.manual_seed(0)
    sizes = {
        "in_channels": 4, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 4, "num_attention_heads": 1,
        "joint_attention_dim": 6, "pooled_projection_dim": 5, "axes_dims_rope": [0, 2, 2], "guidance_embeds": True,
    }  # fmt: skip
    t5 = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    parts = {
        "text_encoder": modules("sd1")["text_encoder"],
        "text_encoder_2": T5EncoderModel(t5),
        "transformer": FluxTransformer2DModel(**sizes),
    }
    configs: dict[str, dict[str, Any]] = {
        name: {**parts[name].config.to_dict(), "_class_name": type(parts[name]).__name__}  # type: ignore[union-attr, operator]
        for name in ("text_encoder", "text_encoder_2")
    }
    configs["transformer"] = {**sizes, "_class_name": "FluxTransformer2DModel"}
    return {name: part.requires_grad_(False) for name, part in parts.items()}, configs


def label(name: str) -> str:
    """lora-block-weight's label of a layer: LDM's number of its block, three to a level of diffusers' UNet. Its IN00 is
    the first convolution alone, which Farm counts to what lies outside the blocks."""
    component, _, path = name.partition(".")
    if component != "unet":
        return "BASE"
    if path.startswith("mid_block"):
        return "M00"
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)", path)
    if not found:
        return "BASE"
    level, place = 3 * int(found[2]), 2 if "samplers" in found[3] else int(found[4])
    return f"IN{level + place + 1:02}" if found[1] == "down" else f"OUT{level + place:02}"


#: labels of vectors, as their authors list them
VECTORS = {
    12: "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
    17: "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
    20: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08",
    26: "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 IN09 IN10 IN11 M00 "
        "OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
}  # fmt: skip


@pytest.mark.parametrize(("family", "length"), [("sd1", 17), ("sd1", 26), ("sdxl", 12), ("sdxl", 20)])
def test_vectors_reach_the_blocks_that_they_name(
    model: Callable[[str], Model], family: str, length: int
) -> None:
    vector = [round(0.1 * n - 0.7, 1) for n in range(length)]
    named = dict(zip(VECTORS[length].split(), vector, strict=True))
    found = model(family).strengths(f"<lora:a:2:lbw={','.join(map(str, vector))}>")
    assert {label(name) for name in found} >= named.keys() - {"IN00"}
    for name, strength in found.items():
        assert strength == pytest.approx(2 * named.get(label(name), 0.0), abs=1e-4), name


@pytest.mark.parametrize("preset", sorted(SHIPPED))
def test_presets_are_the_vectors_that_the_extension_ships(model: Callable[[str], Model], preset: str) -> None:
    named = dict(zip(VECTORS[17].split(), map(float, SHIPPED[preset].split(",")), strict=True))
    found = model("sd1").strengths(f"<lora:a:0.5:lbw={preset}>")
    for name, strength in found.items():
        if label(name) in named:
            assert strength == pytest.approx(0.5 * named[label(name)], abs=1e-4), name


def test_a_vector_of_flux_has_clip_t5_and_both_ends(model: Callable[[str], Model]) -> None:
    vector = [round(0.01 * n + 0.2, 2) for n in range(61)]
    found = model("flux1").strengths(f"<lora:a:1:lbw={','.join(map(str, vector))}>")
    for name, strength in found.items():
        block = re.search(r"\.(single_)?transformer_blocks\.(\d+)\.", name)
        if block:
            place = 3 + int(block[2]) + (19 if block[1] else 0)
        elif name.startswith("text_encoder"):
            place = 1 if name.startswith("text_encoder_2") else 0
        else:
            place = 60 if re.search(r"\.(norm_out|proj_out)", name) else 2
        assert strength == pytest.approx(vector[place], abs=1e-4), name
    assert len(found) >= 59


def test_ranges_of_a_transformer_count_through_both_kinds_of_blocks(model: Callable[[str], Model]) -> None:
    found = model("flux1").strengths("<lora:a:-1:blocks=0-3=0.5/18-19=0/56=2>")
    wanted = {"transformer_blocks.2.": -0.5, "transformer_blocks.18.": 0.0, "single_transformer_blocks.0.": 0.0,
              "single_transformer_blocks.1.": -1.0, "single_transformer_blocks.37.": -2.0}  # fmt: skip
    for start, strength in wanted.items():
        (layer,) = (name for name in found if name.startswith(f"transformer.{start}"))
        assert found[layer] == pytest.approx(strength, abs=1e-4)
    assert all(found[name] == pytest.approx(-1, abs=1e-4) for name in found if name.startswith("text"))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # one adapter, several tags: they add up, whatever their order and sign
        ("<lora:a:0.5> <lora:a:0.25> <lora:a:-1>", (-0.25,) * 5),
        ("<lora:a:1> <lora:b:-0.4> <lora:a:0.5:start=3>", (0.6, 0.6, 1.1, 1.1, 1.1)),
        ("<lora:a:0.6:start=2:stop=4>", (0, 0.6, 0.6, 0.6, 0)),
        ("<lora:a:0.6:step=2-3> <lora:a:-0.2:stop=2>", (-0.2, 0.4, 0.6, 0, 0)),
        ("<lora:a:0@1,1~5:start=20%:stop=80%>", (0, 0.25, 0.5, 0.75, 0)),
        ("<lora:a:-0.5@1,0.5@4:lbw=ALL0.5>", (-0.25, -0.25, -0.25, 0.25, 0.25)),
    ],
)
def test_tags_add_up_step_by_step(
    model: Callable[[str], Model], tags: str, expected: tuple[float, ...]
) -> None:
    for step, strength in enumerate(expected, start=1):
        found = model("sd1").strengths(tags, len(expected), step)
        assert list(found.values()) == pytest.approx([strength] * len(found), abs=1e-4), step


def thirty_two(folder: Path) -> tuple[dict[str, Adapter], str, dict[str, Tensor]]:
    """Adapters for every layer with a matrix, a prompt that names all, and the sums of their changes in float64."""
    adapters, tags = {}, []
    total: dict[str, Tensor] = {}
    layers = [layer for layer in SMALL.layers.values() if layer.kind != "norm"]
    for n, name in enumerate(NAMES):
        strength, rank = round(0.13 * n - 1.9, 2), 1 + n % 4
        tags.append(f"<lora:{name}:{strength}>")
        tensors = {}
        for seed, layer in enumerate(layers):
            out, *rest = layer.shape
            up = rand(out, rank, *[1 for _ in rest[1:]], seed=100 * n + seed)
            down = rand(rank, *rest, seed=100 * n + seed + 50)
            tensors |= {f"{kohya(layer)}.lora_up.weight": up, f"{kohya(layer)}.lora_down.weight": down}
            tensors[f"{kohya(layer)}.alpha"] = torch.tensor(0.5 * rank)
            change = 0.5 * strength * (up.flatten(1).double() @ down.flatten(1).double()).view(layer.shape)
            total[layer.path] = total.get(layer.path, 0) + change
        adapters[name] = load_adapter(write(folder / f"{name}.safetensors", tensors), SMALL)
    return adapters, " ".join(tags), total


def test_thirty_two_adapters_at_once(tmp_path: Path) -> None:
    adapters, prompt, total = thirty_two(tmp_path)
    resolved = plan(parse(prompt).tags, REFS, SMALL, 1).plan
    assert len(resolved.adapters) == 32
    x = rand(2, 4, 5, 5, scale=1.0)
    patched, beside, exact = small(), small(), small(torch.float64)
    for path, change in total.items():
        exact["unet"].get_submodule(path).weight.data.add_(change)  # type: ignore[union-attr, operator]
    Patcher(patched, SMALL).apply(resolved, adapters, 1)
    SideBranch(beside, SMALL).apply(resolved, adapters, 1)
    for path in total:
        wanted = exact["unet"].get_submodule(path).weight
        assert isinstance(wanted, Tensor)
        torch.testing.assert_close(
            patched["unet"].get_submodule(path).weight, wanted.float(), rtol=1e-6, atol=1e-6
        )
        assert torch.equal(
            beside["unet"].get_submodule(path).weight, small()["unet"].get_submodule(path).weight
        )  # type: ignore[arg-type]
    with torch.no_grad():
        wanted = exact["unet"](x.double()).float()
        torch.testing.assert_close(patched["unet"](x), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(beside["unet"](x), wanted, rtol=1e-5, atol=1e-5)
