"""What adapters cost: loading, switching, a change of strength, restoring, memory, drift; ours, diffusers and peft in one run.

UNets of SD1.5's and SDXL's dimensions with random weights, and rank-16 adapters of random values on their attention
layers: kohya's format for us and diffusers, peft's for peft. Only those layers have memory; nothing else is touched. SDXL
has half of its transformer blocks, in bfloat16, so that all contenders stand in memory side by side. Each round lets
every contender live through all operations, in a shuffled order; the ratios are of the best rounds, so that a busy machine
spoils them less, and with one thread the seconds are the processor's, which waiting for others does not lengthen. Memory is that of a fresh process for each contender. Drift is looked at in one attention block after
many switches at changing strengths. Nothing is downloaded.

    python -m benchmarks.adapters --quick
    python -m benchmarks.adapters --size sd15 --rounds 5 --threads 1 --adapters 1 3 --json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import multiprocessing
import os
import random
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from benchmarks import _contenders
from benchmarks._stage import RANK, SIZES, Size, Stage, hollow, unet_with

OPERATIONS = (
    "load",
    "apply",
    "switch",
    "step",
    "product",
    "unchanged",
    "restore",
    "unfused switch",
    "unfused step",
    "hotswap",
)


def timed(stage: Stage, k: int, rounds: int) -> dict[str, dict[str, float]]:
    """Best seconds by contender and operation; `floor` reads the files, copies the weights, and
    (`product`) adds the same products to weights in place, which nobody could undo."""
    targets = {path: weight.clone() for path, weight in stage.weights.items()}

    def read() -> None:
        for path in stage.files[:k]:
            path.read_bytes()

    def memcpy() -> None:
        for path, target in targets.items():
            target.copy_(stage.weights[path])

    factors = {
        path: (
            torch.randn(len(weight), k * RANK, dtype=weight.dtype),
            torch.randn(k * RANK, weight.shape[1], dtype=weight.dtype),
        )
        for path, weight in targets.items()
    }

    def product() -> None:
        for path, target in targets.items():
            target.addmm_(*factors[path], alpha=1e-3)

    floors = (("load", read), ("step", memcpy), ("product", product))
    lives: dict[str, list[tuple[str, Callable[[], object]]]] = {"floor": [*floors, *floors]}
    for kind in _contenders.ALL:
        lives[kind.name] = stage.contender(kind, k).operations()
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    best: dict[str, dict[str, float]] = {name: {} for name in lives}
    for _ in range(rounds):
        for name in random.sample(sorted(lives), len(lives)):
            for operation, act in lives[name]:
                began = clock()
                act()
                taken = clock() - began
                if not operation.startswith("_"):
                    best[name][operation] = min(taken, best[name].get(operation, taken))
    return best


def drift(stage: Stage, k: int, switches: int) -> dict[str, tuple[float, float]]:
    """By contender, after restoring: share of weights that differ from the checkpoint's, and by how much at most."""
    found = {}
    for kind in _contenders.ALL:
        unet = unet_with(stage.size, stage.weights)
        parameters = {path: unet.get_submodule(path).weight for path in stage.weights}
        contender = kind(unet, stage.layout, stage.files[:k], stage.files[k : 2 * k])
        strengths = random.Random(0)
        contender.load(contender.a)
        contender.load(contender.b)
        for turn in range(switches):
            contender.apply((contender.a, contender.b)[turn % 2], strengths.uniform(0.1, 1))
        contender.restore()
        changed = [
            (parameters[path].data.double() - weight.double()).abs() for path, weight in stage.weights.items()
        ]
        share = sum(int((c > 0).sum()) for c in changed) / sum(c.numel() for c in changed)
        found[kind.name] = (share, max(float(c.max()) for c in changed))
    return found


def _memory(size: str, kind: int, k: int, folder: str, answer: Any) -> None:
    quiet()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        stage = Stage(SIZES[size], Path(own), k)
        contender = stage.contender(_contenders.ALL[kind], k)
        stage.weights.clear()
        ctypes.CDLL(None).malloc_trim(0)
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
        contender.load(contender.a)
        contender.apply(contender.a, 0.8)
        contender.apply(contender.a, 0.5)
        kept = _resident("VmRSS") - before
        contender.restore()
        answer.put((kept, _resident("VmHWM") - before))


def _resident(what: str) -> float:
    """MB of this process."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def memory(size: str, k: int) -> dict[str, tuple[float, float]]:
    """By contender, MB above the weights: while a set of k is in them, and at the peak of load, apply, step, restore."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "diffusers", "peft", "benchmarks._contenders"])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(_contenders.ALL):
            answer = context.Queue()
            process = context.Process(target=_memory, args=(size, number, k, folder, answer))
            process.start()
            found[kind.name] = answer.get(timeout=300)
            process.join()
    return found


def forward(size: Size) -> float:
    """Seconds of one denoising call, 32 x 32 latent, batch 1: what a step change is to be seen against."""
    unet: Any = hollow(size).to_empty(device="cpu")
    for parameter in unet.parameters():
        parameter.fill_(1e-3)
    sample, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, size.config["cross_attention_dim"])
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            began = clock()
            unet(sample, 10, text)
            best = min(best, clock() - began)
    return best


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def show(size: str, k: int, result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    floor = seconds["floor"]
    print(
        f"\n{size}, {k} adapter{'s' if k > 1 else ''}: ms and multiples of the floor (read of the files; memcpy)"
    )
    print(f"  {'':15}" + "".join(f"{name:>22}" for name in seconds))
    for operation in OPERATIONS:
        if any(operation in row for row in seconds.values()):
            unit = floor["load" if operation == "load" else "step"]
            cells = (
                f"{row[operation] * 1000:12.1f} {row[operation] / unit:8.2f}x"
                if operation in row
                else f"{'-':>22}"
                for row in seconds.values()
            )
            print(f"  {operation:15}" + "".join(cells))
    ours, diffusers, peft = (seconds[kind.name] for kind in _contenders.ALL)
    for operation in ("load", "switch", "step", "restore"):
        print(
            f"  {operation}: ours is {diffusers[operation] / ours[operation]:.1f} x faster than diffusers fused,",
            end=" ",
        )
        print(f"{peft[operation] / ours[operation]:.1f} x than peft merged")
    file = (ours["load"] + ours["switch"], diffusers["restore"] + diffusers["load"] + diffusers["apply"])
    print(
        f"  from file to weights: {file[0] * 1000:.0f} ms, diffusers {file[1] * 1000:.0f} ms, {file[1] / file[0]:.1f} x;",
        end=" ",
    )
    print(f"hotswap, unfused: {diffusers['hotswap'] * 1000:.0f} ms")
    for name, (kept, peak) in result["memory"].items():
        print(f"  memory above the weights, {name}: {kept:.0f} MB while applied, {peak:.0f} MB at the peak")
    for name, (share, most) in result["drift"].items():
        print(f"  drift, {name}: {share:.1%} of the weights changed, by {most:.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small UNet, one round, one adapter")
    parser.add_argument("--size", nargs="+", choices=["sd15", "sdxl"], default=["sd15", "sdxl"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 3, 8], help="adapters in a set")
    parser.add_argument("--switches", type=int, default=50, help="before drift is looked at")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.size, options.rounds, options.adapters, options.switches = ["quick"], 1, [1], 3
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    quiet()
    results: dict[str, Any] = {}
    for size in options.size:
        measured = {k: {"memory": memory(size, k)} for k in options.adapters}
        with tempfile.TemporaryDirectory() as folder:
            block = Stage(SIZES[size], Path(folder), max(options.adapters), SIZES[size].block)
            stage = Stage(SIZES[size], Path(folder), max(options.adapters))
            for k in options.adapters:
                measured[k] |= {
                    "drift": drift(block, k, options.switches),
                    "seconds": timed(stage, k, options.rounds),
                }
                if not options.json:
                    show(size, k, measured[k])
        results[size] = measured
        if size != "sdxl":
            measured["forward"] = forward(SIZES[size])
            share = measured[options.adapters[-1]]["seconds"]["ours"]["step"] / measured["forward"]
            if not options.json:
                print(f"  one forward pass, 32 x 32: {measured['forward'] * 1000:.0f} ms;", end=" ")
                print(f"a step change of {options.adapters[-1]} is {share:.1%} of it")
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
