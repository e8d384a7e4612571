"""Patch or branch: what a change of strength and a forward pass cost either way, beside peft unfused and a plain copy.

Attention and feed-forward layers of SD1.5's real sizes (five of its sixteen blocks, random weights), rank-16 adapters on all,
driven as in a denoising step. Each round runs every contender once, in a shuffled order; ratios are of the best rounds,
so that a busy machine spoils them less. Nothing is downloaded.

    python benchmarks/branch.py
    python benchmarks/branch.py --rounds 5 --threads 1 --adapters 1 3 --batch 1 2 --json
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Callable
from itertools import count
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from farm.lora.algorithms.lora import LowRank
from farm.lora.branch import Sample, SideBranch
from farm.lora.layout import Layer, Layout
from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan

RANK = 16
#: (width, tokens of a 32 × 32 latent, blocks), of 6, 6 and 4 such blocks that SD1.5 has
BLOCKS = ((320, 1024, 1), (640, 256, 2), (1280, 64, 2))
ATTENTION = ("to_q", "to_k", "to_v", "to_out")


class Block(nn.Module):
    """The linear layers of one transformer block; attention itself is left out, it has no weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(width, width) for name in ATTENTION}) for _ in range(2)
        )
        self.up, self.down = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        for layers in self.attention:
            parts: Any = layers
            x = x + parts["to_out"](parts["to_q"](x) + parts["to_k"](x) + parts["to_v"](x))
        value, gate = self.up(x).chunk(2, dim=-1)
        return x + self.down(value * nn.functional.gelu(gate))  # type: ignore[no-any-return]


class Subset(nn.Module):
    """Blocks of all widths, each on input of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(width) for width, _, n in BLOCKS for _ in range(n))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        each = iter(self.blocks)
        found = []
        for x, (_, _, n) in zip(inputs, BLOCKS, strict=True):
            for _ in range(n):
                x = next(each)(x)  # noqa: PLW2901
            found.append(x)
        return found


def layout_of(model: nn.Module) -> Layout:
    layers = [
        Layer(
            component="unet", path=path, kind="linear", shape=(m.out_features, m.in_features), bias=True, block="in"
        )
        for path, m in model.named_modules()
        if isinstance(m, nn.Linear)
    ]  # fmt: skip
    named = {layer.name: layer for layer in layers}
    return Layout(family="sd1", denoisers=("unet",), text_encoders=(), blocks=(), layers=named)


def adapters_of(layout: Layout, k: int) -> Any:
    """k adapters in the engine's own form."""
    return {
        str(n): SimpleNamespace(
            deltas={
                layer.name: LowRank(
                    torch.randn(layer.shape[0], RANK) * 0.02, torch.randn(RANK, layer.shape[1]) * 0.02
                )
                for layer in layout.layers.values()
            }
        )
        for n in range(k)
    }


def plan_of(layout: Layout, k: int, strength: float) -> StrengthPlan:
    curve = dict.fromkeys(layout.regions(), (strength,))
    return StrengthPlan(
        steps=1, adapters=tuple(AdapterSchedule(sha256=str(n), strengths=curve) for n in range(k))
    )


class Peft:
    """peft's layers around the same model: unfused, strengths in Python numbers."""

    def __init__(self, k: int) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[*ATTENTION, "up", "down"])
        self.model: Any = get_peft_model(Subset().requires_grad_(False), config, adapter_name="0")
        for n in range(1, k):
            self.model.add_adapter(str(n), config)
        self.names = [str(n) for n in range(k)]
        self.model.base_model.set_adapter(self.names)
        self.layers = [m for m in self.model.modules() if hasattr(m, "set_scale")]

    def change(self, strength: float) -> None:
        for layer in self.layers:
            for name in self.names:
                layer.set_scale(name, strength)


def measure(k: int, batch: int, rounds: int) -> dict[str, float]:
    """Best seconds of each contender with k adapters."""
    plain, patched, branched, mixed = (Subset().requires_grad_(False).eval() for _ in range(4))
    layout = layout_of(plain)
    adapters = adapters_of(layout, k)
    patcher, branch = Patcher({"unet": patched}, layout), SideBranch({"unet": branched}, layout)
    per_sample = SideBranch({"unet": mixed}, layout)
    peft = Peft(k)
    inputs = [torch.randn(batch, tokens, width) for width, tokens, _ in BLOCKS]
    weights = [plain.get_submodule(layer.path).weight.data for layer in layout.layers.values()]
    copies = [weight.clone() for weight in weights]
    strengths = (0.1 + 0.001 * n for n in count())  # never the same twice

    def memcpy() -> None:
        for weight, copy in zip(weights, copies, strict=True):
            weight.copy_(copy)

    def change_mixed() -> None:
        plans = [plan_of(layout, k, next(strengths)) for _ in range(batch)]
        per_sample.assign([Sample(plan=plan, adapters=adapters, step=1) for plan in plans])

    contenders: dict[str, Callable[[], object]] = {
        "memcpy of the weights": memcpy,
        "change: patch": lambda: patcher.apply(plan_of(layout, k, next(strengths)), adapters, 1),
        "change: branch": lambda: branch.apply(plan_of(layout, k, next(strengths)), adapters, 1),
        "change: branch, each sample its own": change_mixed,
        "change: peft unfused": lambda: peft.change(next(strengths)),
        "forward: plain": lambda: plain(inputs),
        "forward: patch": lambda: patched(inputs),
        "forward: branch": lambda: branched(inputs),
        "forward: branch, each sample its own": lambda: mixed(inputs),
        "forward: peft unfused": lambda: peft.model(inputs),
    }
    best: dict[str, float] = {}
    with torch.inference_mode():
        for name in [name for name in contenders if name.startswith("change")]:
            contenders[name]()  # builds
        for _ in range(rounds):
            for name in random.sample(sorted(contenders), len(contenders)):
                started = perf_counter()
                contenders[name]()
                best[name] = min(best.get(name, float("inf")), perf_counter() - started)
    return {name: best[name] for name in contenders}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--batch", type=int, nargs="+", default=[2], help="samples in a forward pass")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    results = {(k, n): measure(k, n, options.rounds) for k in options.adapters for n in options.batch}
    if options.json:
        print(
            json.dumps([{"adapters": k, "batch": n, "seconds": found} for (k, n), found in results.items()])
        )
        return
    for (k, batch), seconds in results.items():
        print(f"\n{k} adapters, batch {batch}, {options.threads} threads, best of {options.rounds}")
        for name, value in seconds.items():
            unit = "forward: plain" if name.startswith("forward") else "memcpy of the weights"
            print(f"  {name:38} {value * 1000:9.2f} ms {value / seconds[unit]:8.3f} x {unit}")
        extra = seconds["forward: branch"] - seconds["forward: plain"]
        saved = seconds["change: patch"] - seconds["change: branch"]
        share = max(extra, 0.0) / saved
        when = f"when strengths change at more than {share:.0%} of the steps" if share < 1 else "never here"
        print(f"  branching pays {when}")


if __name__ == "__main__":
    main()
