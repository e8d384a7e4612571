"""One LoRA out of many changes: exact where all ranks are kept, as near as Eckart and Young allow where they are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.budget import Budget
from farm.lora.changes import Change, of_adapters, of_models
from farm.lora.extract import Kept, compress, extract
from farm.lora.formats.detect import FAMILY_NAMES, base_model
from farm.lora.formats.header import read_header
from farm.lora.formats.inspect import inspect
from farm.lora.formats.provenance import Made, Source, words_of
from farm.lora.layout import Layer
from farm.lora.merge import merge
from farm.lora.patcher import layer_module
from farm.lora.saving import save_lora
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import Adapter, load
from tests.unit.lora.make import attention, kohya, layout, lora_tensors, modules, rand, write

OF = layout("sd1")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MADE = Made(
    title="both",
    family="sd1",
    date=NOW,
    sources=[Source(name="a.safetensors", sha256="0" * 64, strength="0.8")],
)
LINEAR = Layer(component="unet", path="mid.proj", kind="linear", shape=(24, 40), bias=True, block="mid")
CONV = replace(LINEAR, path="mid.conv", kind="conv", shape=(16, 8, 3, 3))


def pristine(parts: dict[str, torch.nn.Module]):  # type: ignore[no-untyped-def]
    def read(layer: Layer, word: str) -> Tensor | None:
        found: Tensor | None = getattr(layer_module(parts[layer.component], layer), word, None)
        return found

    return read


def never(layer: Layer, word: str) -> Tensor | None:
    raise AssertionError(f"{layer.name}.{word} was read")


def plan(*strengths: float) -> StrengthPlan:
    return StrengthPlan(
        steps=1,
        adapters=tuple(
            AdapterSchedule(sha256=str(i), strengths=dict.fromkeys(OF.regions(), (s,)))
            for i, s in enumerate(strengths)
        ),
    )


def of_kept(kept: Kept) -> Tensor:
    tensors = kept.tensors
    return (tensors["lora_up"].flatten(1) @ tensors["lora_down"].flatten(1)).view(kept.layer.shape)


def off(found: Tensor, wanted: Tensor) -> float:
    return float(
        torch.linalg.vector_norm(found.double() - wanted) / torch.linalg.vector_norm(wanted.double())
    )


@pytest.fixture
def two_loras(tmp_path: Path) -> list[Adapter]:
    layers = [*attention(OF)[:6], *attention(OF, "text_encoder")[:2]]
    layers += [layer for layer in OF.layers.values() if layer.kind == "conv" and "resnets" in layer.path][:2]
    found = []
    for seed in (1, 2):
        tensors = {
            k: t for i, x in enumerate(layers) for k, t in lora_tensors(x, kohya(x), 3, seed * 99 + i).items()
        }
        found.append(load(write(tmp_path / f"{seed}.safetensors", tensors), OF))
    return found


def everything() -> Budget:
    return Budget(energy=1.0)


def test_all_ranks_give_the_sum_again(two_loras: list[Adapter], tmp_path: Path) -> None:
    adapters = {str(i): a for i, a in enumerate(two_loras)}
    kept, report = extract(of_adapters(plan(0.8, -0.5), adapters, OF, never), everything())
    assert {found.report.rank for found in kept} == {6}
    assert report.error < 1e-7
    assert report.energy == pytest.approx(1)
    path = tmp_path / "both.safetensors"
    save_lora(path, kept, OF, MADE)
    ours, wanted = modules(), modules()
    merge(ours, OF, [(load(path, OF), 1.0)])
    assert merge(wanted, OF, list(zip(two_loras, (0.8, -0.5), strict=True))) == 10
    start = modules()
    for layer in (found.layer for found in kept):
        before = layer_module(start[layer.component], layer).weight
        after, expected = (layer_module(p[layer.component], layer).weight - before for p in (ours, wanted))
        assert off(after, expected) < 1e-6


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999), ranks=st.lists(st.integers(1, 9), min_size=1, max_size=4), kept=st.integers(1, 12),
    layer=st.sampled_from([LINEAR, CONV]),
)  # fmt: skip
def test_no_matrix_of_that_rank_is_nearer(seed: int, ranks: list[int], kept: int, layer: Layer) -> None:
    out, into = layer.shape[0], layer.shape[1] * (9 if layer.kind == "conv" else 1)
    up = torch.cat([rand(out, r, seed=seed + i) for i, r in enumerate(ranks)], 1)
    down = torch.cat([rand(r, into, seed=seed + 50 + i) for i, r in enumerate(ranks)])
    found = compress(Change(layer=layer, factors=(up, down)), Budget(rank=kept))
    whole = up.double() @ down.double()
    values = torch.linalg.svdvals(whole)
    wanted = float(values[kept:].square().sum().sqrt() / values.square().sum().sqrt())
    assert found.report.rank == min(kept, sum(ranks), out)
    assert found.report.error == pytest.approx(wanted, abs=1e-6)
    assert off(of_kept(found).flatten(1), whole) == pytest.approx(wanted, abs=1e-6)
    assert float(found.tensors["alpha"]) == found.report.rank


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("dense", [False, True])
def test_an_energy_takes_the_fewest_ranks_that_hold_it(energy: float, dense: bool) -> None:
    up, down = rand(24, 20, seed=1), rand(20, 40, seed=2)
    change = Change(layer=LINEAR, dense=up @ down) if dense else Change(layer=LINEAR, factors=(up, down))
    report = compress(change, Budget(energy=energy)).report
    held = torch.linalg.svdvals(up.double() @ down.double()).square()
    share = (held.cumsum(0) / held.sum()).tolist()
    assert share[report.rank - 1] >= energy - 1e-6
    assert report.rank == 1 or share[report.rank - 2] < energy
    assert report.energy == pytest.approx(share[report.rank - 1], abs=1e-5)
    capped = compress(change, Budget(energy=energy, max_rank=2)).report
    assert capped.rank == min(2, report.rank)


def test_a_large_dense_change_is_sketched_nearly_as_well_as_it_could_be() -> None:
    torch.manual_seed(3)
    layer = replace(LINEAR, shape=(400, 600))
    basis = torch.linalg.qr(torch.randn(600, 400))[0].T
    whole = torch.linalg.qr(torch.randn(400, 400))[0] * torch.logspace(0, -3, 400) @ basis
    found = compress(Change(layer=layer, dense=whole), Budget(rank=16))
    best = float(torch.logspace(0, -3, 400)[16:].norm() / torch.logspace(0, -3, 400).norm())
    assert best <= off(of_kept(found), whole) + 1e-6 < best * 1.01
    assert found.report.error == pytest.approx(off(of_kept(found), whole), rel=1e-3)
    again = compress(Change(layer=layer, dense=whole), Budget(rank=16))
    assert torch.equal(again.tensors["lora_up"], found.tensors["lora_up"])
    by_energy = compress(Change(layer=layer, dense=whole), Budget(energy=0.999))
    assert 0.999 <= by_energy.report.energy < 1


def test_what_is_no_product_of_factors_is_taken_from_the_pristine_weight(tmp_path: Path) -> None:
    start = modules()
    layers = attention(OF)[:2]
    tensors = {}
    for i, layer in enumerate(layers):
        out, into = layer.shape
        tensors |= {
            f"{kohya(layer)}.hada_w1_a": rand(out, 2, seed=i), f"{kohya(layer)}.hada_w1_b": rand(2, into, seed=i + 1),
            f"{kohya(layer)}.hada_w2_a": rand(out, 2, seed=i + 2), f"{kohya(layer)}.hada_w2_b": rand(2, into, seed=i + 3),
        }  # fmt: skip
        tensors[f"{kohya(layer)}.dora_scale"] = rand(out, 1, seed=i + 4) + 1
    dora = load(write(tmp_path / "dora.safetensors", tensors), OF)
    lora = load(write(tmp_path / "lora.safetensors", lora_tensors(layers[0], kohya(layers[0]))), OF)
    kept, _ = extract(of_adapters(plan(0.6, 1.2), {"0": dora, "1": lora}, OF, pristine(start)), everything())
    wanted = modules()
    merge(wanted, OF, [(dora, 0.6), (lora, 1.2)])
    for found in kept:
        before, after = (layer_module(p["unet"], found.layer).weight for p in (start, wanted))
        assert off(of_kept(found), (after - before).double()) < 1e-5


def test_norms_and_biases_are_kept_as_they_are(tmp_path: Path) -> None:
    norm = next(layer for layer in OF.layers.values() if layer.kind == "norm")
    linear = next(layer for layer in OF.layers.values() if layer.kind == "linear" and layer.bias)
    tensors = lora_tensors(linear, kohya(linear)) | {
        f"{kohya(linear)}.diff_b": rand(linear.shape[0], seed=5),
        f"{kohya(norm)}.w_norm": rand(norm.shape[0], seed=6), f"{kohya(norm)}.b_norm": rand(norm.shape[0], seed=7),
    }  # fmt: skip
    both = load(write(tmp_path / "in.safetensors", tensors), OF)
    kept, _ = extract(of_adapters(plan(0.5), {"0": both}, OF, pristine(modules())), Budget(rank=1))
    save_lora(tmp_path / "out.safetensors", kept, OF, MADE)
    made = load(tmp_path / "out.safetensors", OF)
    assert made.info.metadata["ss_network_module"] == "lycoris.kohya"
    ours, wanted = modules(), modules()
    merge(ours, OF, [(made, 1.0)])
    merge(wanted, OF, [(both, 0.5)])
    for layer, words in ((norm, ("weight", "bias")), (linear, ("bias",))):
        for word in words:
            found, expected = (getattr(layer_module(p[layer.component], layer), word) for p in (ours, wanted))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_the_difference_of_two_models(tmp_path: Path) -> None:
    first, second = modules(seed=0), modules(seed=0)
    changed = [
        attention(OF)[0],
        next(x for x in OF.layers.values() if x.kind == "norm" and x.component == "unet"),
    ]
    with torch.no_grad():
        for i, layer in enumerate(changed):
            module = layer_module(second["unet"], layer)
            module.weight += rand(*layer.shape, seed=i)
            if module.bias is not None:
                module.bias += rand(layer.shape[0], seed=i + 9)
    kept, report = extract(of_models(OF, pristine(first), pristine(second)), everything())
    assert {found.layer.name for found in kept} == {layer.name for layer in changed}
    assert report.error < 1e-5
    save_lora(tmp_path / "d.safetensors", kept, OF, MADE)
    merge(first, OF, [(load(tmp_path / "d.safetensors", OF), 1.0)])
    for name, tensor in second["unet"].state_dict().items():
        torch.testing.assert_close(first["unet"].state_dict()[name], tensor, rtol=1e-5, atol=1e-5)


def test_equal_models_and_strengths_that_cancel_give_nothing(two_loras: list[Adapter]) -> None:
    parts = modules()
    with pytest.raises(BadRequest, match="nothing to extract"):
        extract(of_models(OF, pristine(parts), pristine(parts)), Budget(rank=4))
    same = {"0": two_loras[0], "1": two_loras[0]}
    with pytest.raises(BadRequest, match="nothing to extract"):
        extract(of_adapters(plan(1.0, -1.0), same, OF, never), Budget(rank=4))


def test_it_stops_between_two_layers_when_told(two_loras: list[Adapter]) -> None:
    class Stop(Exception):
        pass

    seen = []

    def look(done: int) -> None:
        seen.append(done)
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        extract(of_adapters(plan(1.0), {"0": two_loras[0]}, OF, never), Budget(rank=1), look)
    assert seen == [1, 2, 3]


def test_the_file_says_what_it_is_to_others(two_loras: list[Adapter], tmp_path: Path) -> None:
    kept, _ = extract(of_adapters(plan(1.0), {"0": two_loras[0]}, OF, never), Budget(rank=2))
    path = tmp_path / "both.safetensors"
    save_lora(path, kept, OF, replace(MADE, trigger_words=("ink", "gold", "ink")))
    with safe_open(path, "pt") as file:  # the library's own reader
        said = file.metadata()
        assert all(bool(torch.isfinite(file.get_tensor(key)).all()) for key in file.keys())  # noqa: SIM118
    assert said["ss_network_dim"] == said["ss_network_alpha"] == "2"
    assert said["ss_base_model_version"] == "sd_v1"
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert said["modelspec.date"] == "2026-01-02T03:04:05Z"
    assert said["modelspec.merged_from"] == "a.safetensors"
    assert said["modelspec.hash_sha256"] == f"0x{said['sshs_model_hash']}"
    info = inspect(read_header(path), path.name)
    assert (info.scheme, info.base_model, info.title) == ("kohya", "sd1", "both")
    assert info.trigger_words[:2] == ("ink", "gold")
    with pytest.raises(BadRequest, match="exists already"):
        save_lora(path, kept, OF, MADE)


@pytest.mark.parametrize(
    "family", ["sd1", "sd2", "sdxl", "sd3", "flux1", "flux2", "wan", "qwenimage", "zimage", "demo"]
)
def test_what_we_write_of_a_family_is_read_as_that_family(family: str) -> None:
    assert family in FAMILY_NAMES
    version, architecture = words_of(family)
    assert base_model({"ss_base_model_version": version}, {}, {}).family == family
    assert base_model({"modelspec.architecture": f"{architecture}/lora"}, {}, {}).family == family


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(), "neither rank nor energy"),
        (Budget(rank=4, energy=0.9), "both rank and energy"),
        (Budget(rank=0), "rank is 0: give 1 to 4096"),
        (Budget(energy=1.5), "energy is 1.5"),
        (Budget(energy=0.9, max_rank=0), "max_rank is 0"),
        (Budget(rank=4, max_rank=2), "max_rank stands beside a rank"),
    ],
)
def test_a_budget_that_makes_no_sense_is_told_in_one_sentence(budget: Budget, told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        budget.check()
    assert told in str(caught.value)
