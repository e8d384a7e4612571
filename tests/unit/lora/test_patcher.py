"""The engine's promise: weights are what the plan says, in place, and every bit comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from farm.errors import BadRequest, Permanent
from farm.lora import arithmetic
from farm.lora.layout import Region
from farm.lora.merge import merge
from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import Adapter, load
from tests.unit.lora.make import kohya, layout, lora_tensors, modules, write
from tests.unit.lora.small import DTYPES, SMALL, Small, plan_of, small, small_files, weights

SD1 = layout("sd1")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return {n: load(write(folder / f"{n}.safetensors", t), SMALL, sha256=n) for n, t in small_files().items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fifty_random_jobs_drift_by_no_bit(dtype: torch.dtype, adapters: dict[str, Adapter]) -> None:
    parts = small(dtype)
    patcher = Patcher(parts, SMALL)
    before = patcher.fingerprint()
    generator = torch.Generator().manual_seed(1)
    names = sorted(adapters)
    for job in range(50):
        chosen = [names[i] for i in torch.randperm(len(names), generator=generator)[: 1 + job % 4]]
        curves = [tuple(torch.randn(3, generator=generator).round(decimals=1).tolist()) for _ in chosen]
        plan = plan_of(SMALL, *zip(chosen, curves, strict=True))
        for step in (1, 2, 3):
            patcher.apply(plan, adapters, step)
        patcher.restore()
        assert patcher.fingerprint() == before


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_whole_unet_is_patched_and_restored(family: str, tmp_path: Path) -> None:
    of = layout(family)
    layers = [x for x in of.layers.values() if x.kind in ("linear", "conv")]
    tensors = {k: t for i, x in enumerate(layers) for k, t in lora_tensors(x, kohya(x), seed=i).items()}
    adapter = load(write(tmp_path / "a.safetensors", tensors), of, sha256="a")
    parts = {name: module.bfloat16() for name, module in modules(family).items()}
    patcher = Patcher(parts, of)
    before, values = patcher.fingerprint(), weights(parts)
    assert patcher.apply(plan_of(of, ("a", 0.7)), {"a": adapter}, 1).changed == len(layers)
    assert patcher.fingerprint() != before
    for layer in layers:
        up, down = tensors[f"{kohya(layer)}.lora_up.weight"], tensors[f"{kohya(layer)}.lora_down.weight"]
        change = 0.7 * 1.5 / 3 * (up.flatten(1).double() @ down.flatten(1).double()).view(layer.shape)
        exact = (values[f"{layer.name}.weight"].double() + change).bfloat16()
        found = parts[layer.component].get_submodule(layer.path).weight
        assert isinstance(found, Tensor)
        assert (found == exact).double().mean() > 0.995  # rounded once
    assert patcher.restore().changed == len(layers)
    assert patcher.fingerprint() == before


OPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("apply"),
            st.lists(st.tuples(st.sampled_from(sorted(small_files())), st.sampled_from([0.0, 0.3, 1.0, -1.5])), max_size=4),
        ),
        st.tuples(st.just("restore"), st.just([])),
        st.tuples(st.just("release"), st.just([])),
    ),
    max_size=8,
)  # fmt: skip


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ops=OPS, dtype=st.sampled_from(DTYPES), where=st.sampled_from(["device", "host"]))
def test_any_sequence_ends_where_a_fresh_start_ends(ops: list, dtype: torch.dtype, where: str, adapters: dict[str, Adapter]) -> None:  # type: ignore[type-arg]  # fmt: skip
    patcher = Patcher(small(dtype), SMALL, pristine=where)  # type: ignore[arg-type]
    before = patcher.fingerprint()
    for word, parts in ops:
        if word != "apply":
            getattr(patcher, word)()
            assert patcher.fingerprint() == before
            continue
        names = list(dict(parts).items())
        patcher.apply(plan_of(SMALL, *names), adapters, 1)
        fresh = Patcher(small(dtype), SMALL)
        fresh.apply(plan_of(SMALL, *reversed(names)), adapters, 1)
        assert patcher.fingerprint() == fresh.fingerprint()  # neither history nor order counts
    patcher.restore()
    assert patcher.fingerprint() == before


def test_only_what_changed_is_touched(adapters: dict[str, Adapter]) -> None:
    parts = small()
    patcher = Patcher(parts, SMALL)
    plan = plan_of(SMALL, ("lora", (0.5, 0.5, 0.8, 0.0)), ("norm", 1.0))
    assert patcher.apply(plan, adapters, 1).changed == 5
    assert patcher.apply(plan, adapters, 2).changed == 0
    assert patcher.apply(plan, adapters, 3).changed == 4
    assert patcher.apply(plan, adapters, 4).changed == 4
    assert patcher.apply(StrengthPlan(steps=1), adapters, 1).changed == 1
    assert patcher.restore().changed == 0


def test_storage_and_parameters_stay_the_same_objects(adapters: dict[str, Adapter]) -> None:
    parts = small(torch.float16)
    before = [(id(p), p.data_ptr(), p.requires_grad) for p in parts["unet"].parameters()]
    patcher = Patcher(parts, SMALL)
    patcher.apply(plan_of(SMALL, *[(n, 0.5) for n in adapters]), adapters, 1)
    patcher.restore()
    assert [(id(p), p.data_ptr(), p.requires_grad) for p in parts["unet"].parameters()] == before


def test_a_compiled_module_sees_the_change_without_compiling_again(adapters: dict[str, Adapter]) -> None:
    parts = small()
    count = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal count
        count += 1
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(parts["unet"], backend=backend)
    x = torch.randn(2, 4, 5, 5)
    patcher = Patcher({"unet": compiled}, SMALL)  # type: ignore[dict-item]
    with torch.no_grad():
        plain = compiled(x)
        for strength in (0.5, 0.9, -1.0):
            patcher.apply(plan_of(SMALL, *[(n, strength) for n in adapters]), adapters, 1)
            assert torch.equal(compiled(x), parts["unet"](x))
            assert not torch.allclose(compiled(x), plain, atol=1e-4)
        patcher.restore()
        assert torch.equal(compiled(x), plain)
    assert count == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fail_at", range(1, 6))
def test_a_failure_in_the_middle_leaves_it_restorable(
    dtype: torch.dtype, fail_at: int, adapters: dict[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    patcher = Patcher(small(dtype), SMALL)
    before = patcher.fingerprint()
    plan = plan_of(SMALL, *[(n, 0.5) for n in adapters])
    patcher.apply(plan_of(SMALL, ("lora", 1.0)), adapters, 1)
    calls = 0

    def failing(weight: Tensor, *rest: object) -> None:
        nonlocal calls
        calls += 1
        arithmetic.write(weight, *rest)  # type: ignore[arg-type]
        if calls == fail_at:
            weight.view(-1)[: weight.numel() // 2] = torch.nan  # half written
            raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("farm.lora.patcher.write", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            patcher.apply(plan, adapters, 1)
    again = Patcher(small(dtype), SMALL)
    again.apply(plan, adapters, 1)
    if fail_at % 2:  # straight on, or through restore
        patcher.restore()
        assert patcher.fingerprint() == before
    patcher.apply(plan, adapters, 1)
    assert patcher.fingerprint() == again.fingerprint()
    patcher.restore()
    assert patcher.fingerprint() == before


def test_components_can_be_patched_and_restored_alone(tmp_path: Path) -> None:
    layers = [x for x in SD1.layers.values() if x.path.endswith(("q_proj", "attn1.to_q"))]
    tensors = {k: t for x in layers for k, t in lora_tensors(x, kohya(x)).items()}
    adapter = load(write(tmp_path / "a.safetensors", tensors), SD1)
    parts = modules()
    before = weights(parts)
    patcher = Patcher(parts, SD1)
    plan = plan_of(SD1, ("a", 1.0))
    assert patcher.apply(plan, {"a": adapter}, 1, ["text_encoder"]).changed == 2
    assert all(torch.equal(t, before[n]) for n, t in weights(parts).items() if n.startswith("unet"))
    patcher.apply(plan, {"a": adapter}, 1, ["unet"])
    assert patcher.restore(["text_encoder"]).changed == 2
    now = weights(parts)
    assert all(torch.equal(now[n], t) for n, t in before.items() if n.startswith("text"))
    assert any(not torch.equal(now[n], t) for n, t in before.items() if n.startswith("unet"))


def test_regions_get_their_own_strength(tmp_path: Path) -> None:
    layers = [x for x in SD1.layers.values() if x.path.endswith("attn1.to_q")]
    adapter = load(write(tmp_path / "a.safetensors", {k: t for x in layers for k, t in lora_tensors(x, kohya(x)).items()}), SD1)  # fmt: skip
    strengths: dict[Region, tuple[float, ...]] = {r: (2.0,) for r in SD1.regions() if r.block == "mid"}
    plan = StrengthPlan(steps=1, adapters=(AdapterSchedule(sha256="a", strengths=strengths),))
    parts = modules()
    before = weights(parts)
    Patcher(parts, SD1).apply(plan, {"a": adapter}, 1)
    changed = [n for n, t in weights(parts).items() if not torch.equal(t, before[n])]
    assert changed == ["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]


def test_max_rank_uses_the_first_ranks_only(adapters: dict[str, Adapter]) -> None:
    parts = small()
    before = weights(parts)
    Patcher(parts, SMALL).apply(plan_of(SMALL, ("lora", 1.0), max_rank=1), adapters, 1)
    factors = small_files()["lora"]
    up, down = factors["lora_unet_linear.lora_up.weight"], factors["lora_unet_linear.lora_down.weight"]
    expected = before["unet.linear.weight"] + 1.5 / 3 * up[:, :1] @ down[:1]
    torch.testing.assert_close(weights(parts)["unet.linear.weight"], expected)


def test_channels_last_weights_keep_their_memory_order(adapters: dict[str, Adapter]) -> None:
    parts, other = small(), small()
    parts["unet"].to(memory_format=torch.channels_last)
    strides = parts["unet"].conv.weight.stride()  # type: ignore[union-attr]
    patcher = Patcher(parts, SMALL)
    before = patcher.fingerprint()
    plan = plan_of(SMALL, *[(n, 0.5) for n in adapters])
    patcher.apply(plan, adapters, 1)
    Patcher(other, SMALL).apply(plan, adapters, 1)
    for name, tensor in weights(other).items():
        torch.testing.assert_close(weights(parts)[name], tensor)
    assert parts["unet"].conv.weight.stride() == strides  # type: ignore[union-attr]
    patcher.restore()
    assert patcher.fingerprint() == before


def test_models_loaded_in_inference_mode_are_patched(adapters: dict[str, Adapter]) -> None:
    with torch.inference_mode():
        parts = small()
    patcher = Patcher(parts, SMALL)
    before = patcher.fingerprint()
    patcher.apply(plan_of(SMALL, *[(n, 0.5) for n in adapters]), adapters, 1)
    assert patcher.fingerprint() != before
    patcher.restore()
    assert patcher.fingerprint() == before


def test_pristine_from_the_checkpoint_keeps_no_copy(adapters: dict[str, Adapter], tmp_path: Path) -> None:
    file = tmp_path / "unet.safetensors"
    save_file(Small().state_dict(), file)
    parts = small(torch.bfloat16)
    parts["unet"].conv.weight.data.mul_(2)  # type: ignore[union-attr]  # differs from the file: must be copied
    patcher = Patcher(parts, SMALL, pristine="file", files={"unet": [file]})
    before = patcher.fingerprint()
    for strength in (0.5, 0.7):
        patcher.apply(plan_of(SMALL, *[(n, strength) for n in adapters]), adapters, 1)
    assert patcher.pristine_bytes == parts["unet"].conv.weight.numel() * 2  # type: ignore[union-attr]
    patcher.restore()
    assert patcher.fingerprint() == before


def test_copies_are_taken_when_needed_and_freed(adapters: dict[str, Adapter]) -> None:
    patcher = Patcher(small(), SMALL)
    assert patcher.pristine_bytes == 0
    patcher.apply(plan_of(SMALL, ("norm", 1.0)), adapters, 1)
    assert patcher.pristine_bytes == 2 * 8 * 4
    patcher.release()
    assert patcher.pristine_bytes == 0


def test_a_model_changed_behind_our_back_is_noticed(adapters: dict[str, Adapter]) -> None:
    parts = small()
    patcher = Patcher(parts, SMALL)
    patcher.apply(plan_of(SMALL, ("lora", 1.0)), adapters, 1)
    parts["unet"].half()
    with pytest.raises(Permanent, match=r"became .*float16 after the engine took it over"):
        patcher.restore()


def test_a_layout_of_another_configuration_is_noticed(adapters: dict[str, Adapter]) -> None:
    with pytest.raises(Permanent, match=r"layer unet\.conv|no layer"):
        Patcher({"unet": nn.Linear(2, 2)}, SMALL).apply(plan_of(SMALL, ("lora", 1.0)), adapters, 1)


def test_merging_gives_the_bits_that_patching_gives(adapters: dict[str, Adapter]) -> None:
    parts, other = small(torch.bfloat16), small(torch.bfloat16)
    patcher = Patcher(parts, SMALL)
    names = sorted(adapters)
    patcher.apply(plan_of(SMALL, *[(n, 0.6) for n in names]), adapters, 1)
    assert merge(other, SMALL, [(adapters[n], 0.6) for n in names]) == 5
    assert Patcher(other, SMALL).fingerprint() == patcher.fingerprint()
    with pytest.raises(BadRequest, match="unet, which is not loaded"):
        merge({}, SMALL, [(adapters["lora"], 1.0)])


def test_strength_zero_of_a_dora_is_the_model_itself_and_one_is_what_was_trained(
    adapters: dict[str, Adapter],
) -> None:
    found = {}
    for strength in (1e-9, 0.5, 1.0):
        parts = small()
        Patcher(parts, SMALL).apply(plan_of(SMALL, ("dora", strength)), adapters, 1)
        found[strength] = weights(parts)
    for name, start in weights(small()).items():
        torch.testing.assert_close(found[1e-9][name], start)
        torch.testing.assert_close(found[0.5][name], (start + found[1.0][name]) / 2)
