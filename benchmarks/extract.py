"""What one LoRA of several costs: ours in factor space, the whole SVD, and torch.svd_lowrank, side by side in one run.

Layers have the shapes of SD1.5's UNet (a few of each kind; the sum over the whole UNet is reckoned from them), the
adapters are random, three of rank 16. Each contender makes a rank-16 LoRA of their sum at 0.8, 0.5 and -0.3. Times are
the best of the rounds. Errors are of the kept change against the sum in double precision; the optimum is what the
singular values allow (Eckart and Young). Nothing is downloaded.

    python benchmarks/extract.py
    python benchmarks/extract.py --rounds 3 --rank 32 --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from farm.lora.budget import Budget
from farm.lora.changes import Change
from farm.lora.extract import compress
from farm.lora.layout import Layer

RANK, STRENGTHS = 16, (0.8, 0.5, -0.3)
#: name, shape of the weight, how many such layers SD1.5's UNet has (its attention and the largest convolutions)
LAYERS: tuple[tuple[str, tuple[int, ...], int], ...] = (
    ("attention 320", (320, 320), 35),
    ("attention 640", (640, 640), 35),
    ("attention 1280", (1280, 1280), 42),
    ("text 1280", (1280, 768), 12),
    ("ff in 1280", (10240, 1280), 6),
    ("conv 640", (640, 640, 3, 3), 9),
    ("conv 1280", (1280, 1280, 3, 3), 10),
)

Pair = tuple[Tensor, Tensor]


def factors(shape: tuple[int, ...], seed: int) -> Pair:
    """Three adapters side by side, strengths folded in; singular values that fall off, as trained ones' do."""
    generator = torch.Generator().manual_seed(seed)
    out, rest = shape[0], torch.Size(shape[1:]).numel()
    fall = torch.logspace(0, -1.5, RANK)
    ups = [torch.randn(out, RANK, generator=generator) * fall * s / out**0.5 for s in STRENGTHS]
    downs = [torch.randn(RANK, rest, generator=generator) / rest**0.5 for _ in STRENGTHS]
    return torch.cat(ups, 1), torch.cat(downs)


def ours(shape: tuple[int, ...], pair: Pair, rank: int) -> Tensor:
    layer = Layer(component="unet", path="x", kind="linear", shape=shape, bias=False, block="in")
    kept = compress(Change(layer=layer, factors=pair), Budget(rank=rank)).tensors
    return kept["lora_up"].flatten(1) @ kept["lora_down"].flatten(1)


def ours_dense(shape: tuple[int, ...], pair: Pair, rank: int) -> Tensor:
    """The sketch, as for changes that are no product of factors."""
    layer = Layer(component="unet", path="x", kind="linear", shape=shape, bias=False, block="in")
    dense = (pair[0] @ pair[1]).view(shape)
    kept = compress(Change(layer=layer, dense=dense), Budget(rank=rank)).tensors
    return kept["lora_up"].flatten(1) @ kept["lora_down"].flatten(1)


def whole_svd(shape: tuple[int, ...], pair: Pair, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(pair[0] @ pair[1], full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def lowrank(shape: tuple[int, ...], pair: Pair, rank: int) -> Tensor:
    left, values, right = torch.svd_lowrank(pair[0] @ pair[1], q=rank + 6, niter=2)
    return (left[:, :rank] * values[:rank]) @ right[:, :rank].T


CONTENDERS: dict[str, Callable[[tuple[int, ...], Pair, int], Tensor]] = {
    "ours, factors": ours,
    "ours, dense": ours_dense,
    "torch.svd_lowrank": lowrank,
    "whole SVD": whole_svd,
}


def measure(rank: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for seed, (name, shape, count) in enumerate(LAYERS):
        pair = factors(shape, seed)
        exact = pair[0].double() @ pair[1].double()
        core = torch.linalg.qr(pair[0].double())[1] @ torch.linalg.qr(pair[1].double().T)[1].T
        values = torch.linalg.svdvals(core)
        best_error = float(values[rank:].norm() / values.norm())
        for contender, act in CONTENDERS.items():
            # the whole SVD of a large layer takes seconds and varies little
            times = []
            for _ in range(1 if contender == "whole SVD" else rounds):
                began = perf_counter()
                found = act(shape, pair, rank)
                times.append(perf_counter() - began)
            error = float((found.double() - exact).norm() / exact.norm())
            rows.append(
                {"layer": name, "count": count, "contender": contender, "seconds": min(times), "error": error,
                 "optimum": best_error}
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        rows = measure(options.rank, options.rounds)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"rank {options.rank} of three rank-{RANK} adapters, one thread; milliseconds a layer, error above the optimum"
    )
    print(f"{'':16}" + "".join(f"{name:>28}" for name in CONTENDERS) + f"{'optimum':>12}")
    for name, _, _ in LAYERS:
        mine = [row for row in rows if row["layer"] == name]
        cells = [
            f"{1000 * row['seconds']:12.1f} ms  +{max(0.0, row['error'] - row['optimum']):.1e}"
            for row in mine
        ]
        print(f"{name:16}" + "".join(f"{cell:>28}" for cell in cells) + f"{mine[0]['optimum']:12.4f}")
    whole = {
        name: sum(row["seconds"] * row["count"] for row in rows if row["contender"] == name)
        for name in CONTENDERS
    }
    first = whole["ours, factors"]
    print("all such layers of a UNet, reckoned:")
    for name, seconds in whole.items():
        print(f"  {name:20}{seconds:9.2f} s{seconds / first:9.1f}x")


if __name__ == "__main__":
    main()
