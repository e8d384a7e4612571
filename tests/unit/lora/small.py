"""A module with one layer of each kind, an adapter file of each algorithm for it, and plans by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from farm.lora.layout import Layout
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from tests.unit.lora.make import kohya, layout_of, lora_tensors, rand

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Small(nn.Module):
    """One layer of each kind; quick to hash."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.pointwise = nn.Conv2d(8, 6, 1)
        self.square = nn.Linear(6, 6, bias=False)
        self.linear = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.norm(self.conv(x)))
        return self.linear(self.square(y.mean((2, 3))))  # type: ignore[no-any-return]


def small(dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
    return {"unet": Small().to(dtype).requires_grad_(False)}


SMALL = layout_of(small(), "sd1")


def small_files() -> dict[str, dict[str, Tensor]]:
    """One file for each algorithm on the small module."""
    conv, pointwise, square, linear = (
        SMALL.layers[f"unet.{n}"] for n in ("conv", "pointwise", "square", "linear")
    )
    c, p, s, l = (f"lora_unet_{x.path}" for x in (conv, pointwise, square, linear))  # noqa: E741
    plain = {k: t for i, x in enumerate((conv, pointwise, square, linear)) for k, t in lora_tensors(x, kohya(x), seed=i).items()}  # fmt: skip
    return {
        "lora": plain,
        "lora2": {k: t.flip(0) if t.dim() else t * 2 for k, t in plain.items()},
        "bias": {**lora_tensors(linear, l, seed=5), f"{l}.diff_b": rand(10)},
        "dora": {**plain, f"{s}.dora_scale": rand(6, 1) + 1, f"{c}.dora_scale": rand(1, 4, 1, 1) + 1, f"{l}.dora_scale": rand(10, 1) + 1},
        "loha": {f"{l}.hada_{n}": rand(*z, seed=7) for n, z in (("w1_a", (10, 2)), ("w1_b", (2, 6)), ("w2_a", (10, 2)), ("w2_b", (2, 6)))},
        "lokr": {f"{c}.lokr_w1": rand(2, 2), f"{c}.lokr_w2_a": rand(4, 2), f"{c}.lokr_w2_b": rand(2, 18), f"{c}.alpha": torch.tensor(1.0)},
        "full": {f"{p}.diff": rand(6, 8, 1, 1), f"{p}.diff_b": rand(6)},
        "glora": {f"{c}.{n}.weight": rand(*z, seed=8) for n, z in (("a1", (4, 2, 1, 1)), ("a2", (2, 4, 1, 1)), ("b1", (8, 2, 1, 1)), ("b2", (2, 4, 3, 3)))},
        "ia3": {f"{p}.weight": rand(1, 8, 1, 1), f"{p}.on_input": torch.tensor(1)},
        "oft": {f"{s}.oft_blocks": rand(3, 2, 2), f"{s}.rescale": rand(6, 1) + 1, f"{s}.alpha": torch.tensor(0.01)},
        "boft": {f"{c}.oft_blocks": rand(2, 2, 4, 4), f"{c}.alpha": torch.tensor(0)},
        "norm": {"lora_unet_norm.w_norm": rand(8), "lora_unet_norm.b_norm": rand(8, seed=2)},
    }  # fmt: skip


def plan_of(
    of: Layout, *parts: tuple[str, float] | tuple[str, tuple[float, ...]], max_rank: int | None = None
) -> StrengthPlan:
    curves = [(name, (s,) if isinstance(s, float) else s) for name, s in parts]
    steps = max((len(curve) for _, curve in curves), default=1)
    return StrengthPlan(
        steps=steps,
        adapters=tuple(
            AdapterSchedule(
                sha256=name,
                strengths={r: curve * (steps // len(curve)) for r in of.regions()},
                max_rank=max_rank,
            )
            for name, curve in curves
        ),
    )


def weights(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{c}.{n}": t.clone() for c, m in parts.items() for n, t in m.state_dict().items()}
