"""Compiled models see every change of strength, in both modes, and are not compiled again for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor import config

from farm.errors import BadRequest
from farm.lora.branch import Sample, SideBranch
from farm.lora.compiled import compile_in_place
from farm.lora.patcher import Patcher
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter, load
from tests.unit.lora.make import kohya, layout_of, lora_tensors, rand, write
from tests.unit.lora.small import SMALL, plan_of, small, small_files

Mode = type[Patcher] | type[SideBranch]


def unet(seed: int = 0) -> dict[str, nn.Module]:
    """Few layers: dynamo traces each anew."""
    torch.manual_seed(seed)
    module = UNet2DConditionModel(
        in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8,), cross_attention_dim=8,
        attention_head_dim=4, norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",), mid_block_type=None,
    )  # fmt: skip
    return {"unet": module.requires_grad_(False).eval()}


UNET = layout_of(unet(), "sd1")
INPUTS = (rand(2, 4, 8, 8, scale=1.0), torch.tensor([10.0, 500.0]), rand(2, 7, 8, scale=1.0))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    layers = [x for x in UNET.layers.values() if x.path.endswith(("to_q", "conv1", "time_emb_proj"))]
    return {
        name: load(
            write(
                folder / f"{name}.safetensors",
                {k: t for x in layers for k, t in lora_tensors(x, kohya(x), seed=seed).items()},
            ),
            UNET,
            sha256=name,
        )
        for seed, name in enumerate("ab")
    }


@contextmanager
def counting(parts: Mapping[str, nn.Module], inner: Callable[..., Any] | None = None) -> Iterator[list[int]]:
    """Compile the UNet; what is yielded grows by one with each compilation."""
    compilations: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compilations.append(len(graph.graph.nodes))
        return inner(graph, inputs) if inner else graph.forward

    torch._dynamo.reset()
    parts["unet"].compile(backend=backend)
    try:
        with torch.no_grad():
            yield compilations
    finally:
        torch._dynamo.reset()


def noise(parts: Mapping[str, nn.Module]) -> Tensor:
    return parts["unet"](*INPUTS).sample  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", [Patcher, SideBranch])
def test_a_unet_is_not_compiled_again_while_strengths_change(
    mode: Mode, adapters: dict[str, Adapter]
) -> None:
    parts, eager = unet(), unet()
    engine, plain = mode(parts, UNET), mode(eager, UNET)
    curve = tuple(0.1 * n for n in range(6))
    plan = plan_of(UNET, ("a", curve))
    with counting(parts) as compilations:
        seen = []
        for step in range(1, 7):
            engine.apply(plan, adapters, step)
            plain.apply(plan, adapters, step)
            seen.append(noise(parts))
            torch.testing.assert_close(seen[-1], noise(eager))
        assert len(compilations) == 1
        assert all(not torch.equal(a, b) for a, b in pairwise(seen))
        engine.apply(plan_of(UNET, ("b", curve)), adapters, 3)  # the same shapes in another file
        noise(parts)
        assert len(compilations) == 1
        engine.restore()
        torch.testing.assert_close(noise(parts), noise(unet()))


def test_a_mixed_batch_is_not_compiled_again_while_strengths_change(adapters: dict[str, Adapter]) -> None:
    parts, alone = unet(), unet()
    branch, patcher = SideBranch(parts, UNET), Patcher(alone, UNET)
    plans = [plan_of(UNET, ("a", (0.1, 0.0, 0.9))), plan_of(UNET, ("a", 0.5), ("b", (1.0, 0.3, 0.2)))]
    with counting(parts) as compilations:
        for step in (1, 2, 3):
            branch.assign([Sample(plan=p, adapters=adapters, step=min(step, p.steps)) for p in plans])
            found = noise(parts)
            for n, plan in enumerate(plans):
                patcher.apply(plan, adapters, step)
                torch.testing.assert_close(found[n], noise(alone)[n], atol=1e-5, rtol=1e-4)
        assert len(compilations) == 1


def test_functional_graphs_take_both_modes(tmp_path: Path) -> None:
    """aot_eager makes graphs free of mutation, as inductor does."""
    files = small_files()
    adapter = load(write(tmp_path / "a.safetensors", files["glora"] | files["bias"]), SMALL, sha256="a")
    x = rand(2, 4, 5, 5, scale=1.0)
    for mode in (Patcher, SideBranch):
        parts, eager = small(), small()
        engine, plain = mode(parts, SMALL), mode(eager, SMALL)
        with counting(parts, aot_eager) as compilations:
            for strength in (0.2, 0.9):
                plan: StrengthPlan = plan_of(SMALL, ("a", strength))
                engine.apply(plan, {"a": adapter}, 1)
                plain.apply(plan, {"a": adapter}, 1)
                torch.testing.assert_close(parts["unet"](x), eager["unet"](x))
            assert len(compilations) == 1


@pytest.mark.parametrize("mode", [Patcher, SideBranch])
def test_freezing_is_refused(mode: Mode) -> None:
    parts = small()
    engine = mode(parts, SMALL)
    with config.patch(freezing=True):
        engine.apply(plan_of(SMALL), {}, 1)  # nothing is compiled
        with pytest.raises(BadRequest, match="freezing bakes weights into compiled code"):
            compile_in_place(parts["unet"])
        with pytest.raises(BadRequest, match="TORCHINDUCTOR_FREEZING=0"):
            engine.apply(plan_of(SMALL), {}, 1)
    engine.apply(plan_of(SMALL), {}, 1)
