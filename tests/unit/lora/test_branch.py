"""Adapters beside frozen layers give what patched weights give, sample by sample, and leave nothing behind."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from farm.errors import BadRequest, Permanent
from farm.lora.algorithms.factors import Factored
from farm.lora.algorithms.glora import GLoRA
from farm.lora.algorithms.lora import LowRank
from farm.lora.branch import Sample, SideBranch
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import Patcher
from farm.lora.tensors import Adapter, load
from tests.unit.lora.make import kohya, layout, lora_tensors, modules, rand, write
from tests.unit.lora.small import SMALL, plan_of, small, small_files

#: may act beside a layer; the others change norms, or are not linear in their strength
BESIDE = ("lora", "lora2", "bias", "loha", "lokr", "full", "glora")
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    files = small_files()
    linear = SMALL.layers["unet.linear"]
    files["glora"] |= {
        f"{kohya(linear)}.{n}.weight": rand(*shape, seed=9)
        for n, shape in (("a1", (6, 2)), ("a2", (2, 6)), ("b1", (10, 2)), ("b2", (2, 6)))
    }
    return {n: load(write(folder / f"{n}.safetensors", t), SMALL, sha256=n) for n, t in files.items()}


def close(found: Tensor, wanted: Tensor, rounding: float) -> None:
    """Equal up to `rounding` of the largest value."""
    error = (found.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    assert error <= rounding, f"{float(error):.2e}"


PARTS = st.lists(st.tuples(st.sampled_from(BESIDE), st.floats(-2, 2, width=16)), max_size=4)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(parts=PARTS, dtype=st.sampled_from(sorted(ROUNDING, key=str)), max_rank=st.sampled_from([None, 1, 2]))
def test_the_branch_gives_what_patching_gives(
    parts: list[tuple[str, float]], dtype: torch.dtype, max_rank: int | None, adapters: dict[str, Adapter]
) -> None:
    x = rand(2, 4, 5, 5, scale=1.0, dtype=dtype)
    patched, beside = small(dtype), small(dtype)
    plan = plan_of(SMALL, *parts, max_rank=max_rank)
    Patcher(patched, SMALL).apply(plan, adapters, 1)
    SideBranch(beside, SMALL).apply(plan, adapters, 1)
    with torch.no_grad():
        close(beside["unet"](x), patched["unet"](x), ROUNDING[dtype])


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    jobs=st.lists(st.tuples(PARTS, st.integers(1, 3)), min_size=1, max_size=4),
    dtype=st.sampled_from(sorted(ROUNDING, key=str)),
)
def test_each_sample_of_a_mixed_batch_is_as_if_alone(
    jobs: list[tuple[list[tuple[str, float]], int]], dtype: torch.dtype, adapters: dict[str, Adapter]
) -> None:
    samples = [Sample(plan=plan_of(SMALL, *p), adapters=adapters, step=1, rows=n) for p, n in jobs]
    batch = rand(sum(n for _, n in jobs), 4, 5, 5, scale=1.0, dtype=dtype)
    parts = small(dtype)
    branch = SideBranch(parts, SMALL)
    branch.assign(samples)
    with torch.no_grad():
        together = parts["unet"](batch).split([n for _, n in jobs])
        for sample, x, found in zip(samples, batch.split([n for _, n in jobs]), together, strict=True):
            branch.apply(sample.plan, adapters, 1)
            close(found, parts["unet"](x), ROUNDING[dtype])


def test_another_samples_overflow_stays_its_own(adapters: dict[str, Adapter]) -> None:
    huge = SimpleNamespace(deltas={"unet.conv": LowRank(torch.ones(8, 1), torch.full((1, 36), 1e38))})
    both: Any = {**adapters, "huge": huge}
    parts = small()
    x = rand(2, 4, 5, 5, scale=100.0)
    branch = SideBranch(parts, SMALL)
    calm, wild = (plan_of(SMALL, (name, 1.0)) for name in ("lora", "huge"))
    with torch.no_grad():
        branch.apply(calm, both, 1)
        alone = parts["unet"](x)
        branch.assign([Sample(plan=p, adapters=both, step=1) for p in (calm, wild)])
        found = parts["unet"](x)
        branch.apply(wild, both, 1)
        assert not parts["unet"](x)[0].isfinite().all()  # as the first sample would have been
    close(found[0], alone[0], 2e-6)


class Odd(nn.Module):
    """Convolutions of every kind that a layer may be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.strided = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2)
        self.ring = nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular", bias=False)
        self.line = nn.Conv1d(4, 4, 3, padding=1)
        self.cube = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.line(self.ring(self.grouped(self.strided(x))).flatten(2))
        return self.cube(y[:, None, :, :, None])  # type: ignore[no-any-return]


def odd_layout(unet: nn.Module) -> Layout:
    layers = [
        Layer(component="unet", path=path, kind="conv", shape=tuple(m.weight.shape), bias=m.bias is not None, block="in")
        for path, m in unet.named_children()
    ]  # fmt: skip
    return replace(SMALL, layers={layer.name: layer for layer in layers})


def odd_adapter(of: Layout) -> Any:
    deltas = {}
    for name, layer in of.layers.items():
        out, into, *kernel = layer.shape
        deltas[name] = GLoRA(
            (rand(into, 2), rand(2, into)),
            Factored(rand(out, 3), rand(3, into * prod(kernel))),
            0.7,
            rand(out),
        )
        if not layer.bias:
            deltas[name].bias = None
    return SimpleNamespace(deltas=deltas)


def test_convolutions_of_every_kind() -> None:
    patched, beside = {"unet": Odd().requires_grad_(False)}, {"unet": Odd().requires_grad_(False)}
    of = odd_layout(patched["unet"])
    adapters: Any = {"a": odd_adapter(of)}
    x = rand(2, 4, 8, 8, scale=1.0)
    plan = plan_of(of, ("a", 0.7))
    Patcher(patched, of).apply(plan, adapters, 1)
    branch = SideBranch(beside, of)
    plain = beside["unet"](x)
    branch.apply(plan, adapters, 1)
    close(beside["unet"](x), patched["unet"](x), 2e-6)
    branch.assign([Sample(plan=p, adapters=adapters, step=1) for p in (plan, plan_of(of))])
    found = beside["unet"](x)
    close(found[0], patched["unet"](x)[0], 2e-6)
    close(found[1], plain[1], 2e-6)


def test_nothing_is_left_behind(adapters: dict[str, Adapter]) -> None:
    parts = small()
    unet = parts["unet"]
    ids = {name: (id(p), p.data_ptr()) for name, p in unet.named_parameters()}
    keys = list(unet.state_dict())
    attributes = {name: set(vars(m)) for name, m in unet.named_modules()}
    before = Patcher(parts, SMALL).fingerprint()
    x = rand(2, 4, 5, 5)
    plain = unet(x)
    branch = SideBranch(parts, SMALL)
    assert branch.apply(plan_of(SMALL, *[(n, 0.5) for n in BESIDE]), adapters, 1).changed == 4
    assert not torch.equal(unet(x), plain)
    assert {name: (id(p), p.data_ptr()) for name, p in unet.named_parameters()} == ids
    assert list(unet.state_dict()) == keys
    assert branch.restore().changed == 4
    assert {name: set(vars(m)) for name, m in unet.named_modules()} == attributes
    assert Patcher(parts, SMALL).fingerprint() == before
    assert torch.equal(unet(x), plain)


def test_a_forward_that_others_replaced_is_kept_and_given_back(adapters: dict[str, Adapter]) -> None:
    parts = small()
    linear: Any = parts["unet"].linear
    theirs = linear.forward
    linear.forward = lambda x: theirs(x) + 1
    mine = linear.forward
    x = rand(2, 4, 5, 5)
    plain = parts["unet"](x)
    branch = SideBranch(parts, SMALL)
    branch.apply(plan_of(SMALL, ("lora", 0.0)), adapters, 1)
    assert torch.equal(parts["unet"](x), plain)
    branch.apply(plan_of(SMALL, ("lora", 0.5)), adapters, 1)
    assert not torch.equal(parts["unet"](x), plain)
    branch.release()
    assert linear.forward is mine


def test_a_change_of_strength_touches_strengths_alone(adapters: dict[str, Adapter]) -> None:
    parts = small()
    branch = SideBranch(parts, SMALL)
    plan = plan_of(SMALL, ("lora", (0.5, 0.5, 0.0, 0.9)), ("loha", 1.0))
    linear: Any = parts["unet"].linear
    assert branch.apply(plan, adapters, 1).changed == 4
    beside = linear.forward.__self__
    address, factors = beside.strengths.data_ptr(), beside._outer
    assert branch.apply(plan, adapters, 2).changed == 0
    for step in (3, 4):
        assert branch.apply(plan, adapters, step).changed == 4
        assert linear.forward.__self__ is beside
        assert beside.strengths.data_ptr() == address
        assert beside._outer is factors


@pytest.mark.parametrize("name", ["dora", "ia3", "oft", "boft", "norm"])
def test_what_has_no_side_branch_is_refused_by_name(name: str, adapters: dict[str, Adapter]) -> None:
    parts = small()
    x = rand(2, 4, 5, 5)
    plain = parts["unet"](x)
    branch = SideBranch(parts, SMALL)
    with pytest.raises(
        BadRequest, match=r"unet\.\w+: .* cannot act beside a frozen weight: use lora_mode patch"
    ):
        branch.apply(plan_of(SMALL, ("lora", 1.0), (name, 1.0)), adapters, 1)
    assert torch.equal(parts["unet"](x), plain)  # not half of it
    assert "cannot act beside" in branch.why_not({name: adapters[name]})


def test_what_has_one_is_not_refused(adapters: dict[str, Adapter]) -> None:
    assert SideBranch(small(), SMALL).why_not({name: adapters[name] for name in BESIDE}) == ""


class Padded(nn.Conv2d):
    """Pads in a forward of its own, as causal convolutions do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


def test_a_convolution_with_a_forward_of_its_own_is_refused(adapters: dict[str, Adapter]) -> None:
    parts = small()
    parts["unet"].conv = Padded(4, 8, 3)
    branch = SideBranch(parts, SMALL)
    assert branch.why_not({"lora": adapters["lora"]}).startswith("unet.conv is a Padded")
    assert branch.why_not({"loha": adapters["loha"]}) == ""  # which leaves it alone
    with pytest.raises(BadRequest, match=r"unet\.conv is a Padded, beside which no adapter can act"):
        branch.apply(plan_of(SMALL, ("lora", 1.0)), adapters, 1)


def test_a_batch_of_another_size_is_refused(adapters: dict[str, Adapter]) -> None:
    parts = small()
    branch = SideBranch(parts, SMALL)
    plan = plan_of(SMALL, ("lora", 1.0))
    branch.assign([Sample(plan=plan, adapters=adapters, step=1, rows=2) for _ in range(2)])
    parts["unet"](rand(4, 4, 5, 5))
    with pytest.raises(Permanent, match="a layer got 3 samples, strengths are set for 4"):
        parts["unet"](rand(3, 4, 5, 5))


def test_components_have_branches_of_their_own(tmp_path: Path) -> None:
    of = layout()
    layers = [x for x in of.layers.values() if x.path.endswith(("q_proj", "attn1.to_q"))]
    tensors = {k: t for x in layers for k, t in lora_tensors(x, kohya(x)).items()}
    adapter = load(write(tmp_path / "a.safetensors", tensors), of)
    parts = modules()
    branch = SideBranch(parts, of)
    plan = plan_of(of, ("a", 1.0))

    def replaced() -> set[str]:
        return {name for name, m in parts.items() for child in m.modules() if "forward" in vars(child)}

    assert branch.apply(plan, {"a": adapter}, 1, ["text_encoder"]).changed == 2
    assert replaced() == {"text_encoder"}
    branch.apply(plan, {"a": adapter}, 1, ["unet"])
    assert branch.restore(["text_encoder"]).changed == 2
    assert replaced() == {"unet"}


def test_a_whole_unet_gives_the_same_noise_in_both_modes(tmp_path: Path) -> None:
    of = layout()
    layers = [x for x in of.layers.values() if x.kind in ("linear", "conv") and x.component == "unet"]
    tensors = {k: t for i, x in enumerate(layers) for k, t in lora_tensors(x, kohya(x), seed=i).items()}
    adapter = load(write(tmp_path / "a.safetensors", tensors), of, sha256="a")
    x, t, text = rand(2, 4, 8, 8, scale=1.0), torch.tensor([10.0, 500.0]), rand(2, 7, 32, scale=1.0)
    plan, found = plan_of(of, ("a", 0.3)), []
    for mode in (Patcher, SideBranch):
        parts = modules()
        mode(parts, of).apply(plan, {"a": adapter}, 1)
        with torch.no_grad():
            found.append(parts["unet"](x, t, text).sample)
    with torch.no_grad():
        plain = modules()["unet"](x, t, text).sample
    close(found[1], found[0], 1e-4)
    assert (found[0] - plain).abs().max() > 0.01 * plain.abs().max()
