"""Weights that files keep fused: every algorithm's change, cut for our layers, against the change of the fused weight."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from farm.lora.algorithms.lora import LowRank
from farm.lora.layout import Layout, Region, Rows
from farm.lora.merge import merge
from farm.lora.parts import Part, spans_of
from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import Adapter, load
from tests.unit.lora import families
from tests.unit.lora.make import layout_of, rand, write

FLUX = families.layout("flux1")
BLOCK = "transformer.single_transformer_blocks.1."
PARTS = [f"{BLOCK}attn.to_q", f"{BLOCK}attn.to_k", f"{BLOCK}attn.to_v", f"{BLOCK}proj_mlp"]
OUT, IN = 112, 16
M = "lora_unet_single_blocks_1_linear1"


def lora(out: int = OUT) -> dict[str, Tensor]:
    return {
        "lora_up.weight": rand(out, 3),
        "lora_down.weight": rand(3, IN, seed=1),
        "alpha": torch.tensor(2.0),
    }


LOHA = {
    "hada_w1_a": rand(OUT, 2),
    "hada_w1_b": rand(2, IN, seed=1),
    "hada_w2_a": rand(OUT, 2, seed=2),
    "hada_w2_b": rand(2, IN, seed=3),
}
LOKR = {"lokr_w1": rand(4, 2), "lokr_w2": rand(28, 8)}
#: what the file holds, and whether the parts read one another
CASES: dict[str, tuple[dict[str, Tensor], bool]] = {
    "lora": (lora(), False),
    "bias": ({**lora(), "diff_b": rand(OUT)}, False),
    "full": ({"diff": rand(OUT, IN), "diff_b": rand(OUT)}, False),
    "loha": (LOHA, False),
    "lokr": (LOKR, False),
    "glora": ({"a1.weight": rand(IN, 2), "a2.weight": rand(2, IN), "b1.weight": rand(OUT, 2), "b2.weight": rand(2, IN)}, False),
    "ia3-out": ({"weight": rand(OUT), "on_input": torch.tensor(0)}, False),
    "ia3-in": ({"weight": rand(IN), "on_input": torch.tensor(1)}, False),
    "ia3-peft": ({"ia3_l": rand(OUT, 1)}, False),
    "dora-out": ({**lora(), "dora_scale": rand(OUT, 1).abs()}, False),
    "dora-in": ({**lora(), "dora_scale": rand(1, IN).abs()}, True),
    "dora-lokr": ({**LOKR, "dora_scale": rand(OUT, 1).abs()}, False),
    "replaced": ({"set_weight": rand(OUT, IN)}, False),
    "residual": ({**lora(), "bias_indices": torch.tensor([[3, 60], [1, 2]]), "bias_values": rand(2), "bias_size": torch.tensor([OUT, IN])}, True),
    "oft-peft": ({"oft_R.weight": rand(2, 28)}, False),
    "oft": ({"oft_blocks": rand(14, 8, 8), "alpha": torch.tensor(0.001)}, True),
    "boft": ({"oft_blocks": rand(2, 14, 8, 8), "rescale": rand(OUT, 1) + 1}, True),
}  # fmt: skip


class Holder(nn.Module):
    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner


def named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{M}.{suffix}": tensor for suffix, tensor in tensors.items()}


def fused(tensors: dict[str, Tensor], model: nn.Module, strength: float, path: Path) -> nn.Linear:
    """The same file on a model that keeps the four layers in one."""
    layers = [model.get_submodule(name.removeprefix("transformer.")) for name in PARTS]
    one = nn.Linear(IN, OUT)
    one.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)  # type: ignore[arg-type, list-item]
    one.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)  # type: ignore[arg-type, list-item]
    whole = {f"lora_unet_inner.{suffix}": tensor for suffix, tensor in tensors.items()}
    parts: dict[str, nn.Module] = {"unet": Holder(one)}
    of = layout_of(parts, "sd1")
    merge(parts, of, [(load(write(path / "b.safetensors", whole), of), strength)])
    return one


def of_parts(model: nn.Module, what: str) -> Tensor:
    layers = [model.get_submodule(name.removeprefix("transformer.")) for name in PARTS]
    return torch.cat([getattr(layer, what) for layer in layers])


def everywhere(of: Layout, sha256: str, strength: float) -> StrengthPlan:
    strengths: dict[Region, tuple[float, ...]] = dict.fromkeys(of.regions(), (strength,))
    return StrengthPlan(
        steps=1, adapters=(AdapterSchedule(sha256=sha256, strengths=strengths, max_rank=None),)
    )


@pytest.mark.parametrize("strength", [1.0, 0.7, -0.5])
@pytest.mark.parametrize("name", CASES)
def test_parts_together_are_the_change_of_the_fused_weight(
    name: str, strength: float, tmp_path: Path
) -> None:
    tensors, reads = CASES[name]
    start = families.model("flux1")
    adapter = load(write(tmp_path / "a.safetensors", named(tensors)), FLUX, sha256="a")
    assert sorted(adapter.deltas) == sorted(PARTS)
    assert all(bool(delta.reads) == reads for delta in adapter.deltas.values())
    expected = fused(tensors, start, strength, tmp_path)
    assert not torch.equal(expected.weight, of_parts(start, "weight"))

    merged = copy.deepcopy(start)
    assert merge({"transformer": merged}, FLUX, [(adapter, strength)]) == 4
    patched = copy.deepcopy(start)
    patcher = Patcher({"transformer": patched}, FLUX)
    before = patcher.fingerprint()
    # what is in the weights already must not be read
    patcher.apply(everywhere(FLUX, "a", 0.3), {"a": adapter}, 1)
    patcher.apply(everywhere(FLUX, "a", strength), {"a": adapter}, 1)
    for model in (merged, patched):
        torch.testing.assert_close(of_parts(model, "weight"), expected.weight.data, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(of_parts(model, "bias"), expected.bias.data)
    patcher.restore()
    assert patcher.fingerprint() == before


@pytest.mark.parametrize("name", ["lora", "oft"])
def test_exchanged_halves(name: str, tmp_path: Path) -> None:
    """The file's shift stands above its scale; ours below."""
    tensors = {"lora": lora(32), "oft": {"oft_blocks": rand(4, 8, 8)}}[name]
    module = "lora_unet_final_layer_adaLN_modulation_1"
    file = write(tmp_path / "a.safetensors", {f"{module}.{k}": t for k, t in tensors.items()})
    (delta,) = load(file, FLUX).deltas.values()
    weight = rand(32, IN, seed=9)
    seen = torch.cat([weight[16:], weight[:16]])
    plain = layout_of({"unet": Holder(nn.Linear(IN, 32))}, "sd1")
    file = write(tmp_path / "b.safetensors", {f"lora_unet_inner.{k}": t for k, t in tensors.items()})
    change = load(file, plain).deltas["unet.inner"].change(seen, 0.7)
    ours = delta.change(seen if delta.reads else weight, 0.7)
    assert change is not None
    assert ours is not None
    assert delta.reads == ((Rows(FLUX_OUT, 16, 32), Rows(FLUX_OUT, 0, 16)) if name == "oft" else ())
    torch.testing.assert_close(ours, torch.cat([change[16:], change[:16]]))


FLUX_OUT = "transformer.norm_out.linear"


def test_parts_share_the_memory_of_their_factors(tmp_path: Path) -> None:
    adapter: Adapter = load(write(tmp_path / "a.safetensors", named(lora())), FLUX)
    downs = {delta.down.data_ptr() for delta in adapter.deltas.values() if isinstance(delta, LowRank)}
    assert len(downs) == 1
    assert adapter.bytes == 4 * 3 * (OUT + IN)
    ranked = [delta.factors(2) for delta in adapter.deltas.values()]
    assert all(pair is not None and pair[0].shape[1] == 2 for pair in ranked)
    kron = load(write(tmp_path / "b.safetensors", named(LOKR)), FLUX)
    assert all(isinstance(delta, Part) for delta in kron.deltas.values())
    assert kron.bytes == 4 * (8 + 28 * 8)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), data=st.data())
def test_spans_put_every_row_in_its_place(sizes: list[int], data: Any) -> None:
    pieces = [Rows(f"l{i}", 0, size) for i, size in enumerate(sizes)]
    pieces += [Rows("x", 3, 8), Rows("x", 0, 3)]
    pieces = data.draw(st.permutations(pieces))
    fused_rows = [(piece.layer, row) for piece in pieces for row in range(piece.start, piece.stop)]
    for layer in {piece.layer for piece in pieces}:
        spans = spans_of(layer, tuple(pieces))
        found = [fused_rows[at] for start, stop in spans for at in range(start, stop)]
        assert found == [(layer, row) for row in range(len(found))]
        assert len(found) == sum(piece.stop - piece.start for piece in pieces if piece.layer == layer)
