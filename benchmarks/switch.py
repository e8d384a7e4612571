"""What switching adapters costs: ours, a plain copy of the same weights, and diffusers, side by side in one run.

A UNet with SD1.5's dimensions (or a quarter of its widths with `--quick`), random weights, rank-16 adapters in kohya's
format on its 128 attention layers. Each round runs every contender once, in a shuffled order; the ratios are of the
best rounds, so that a busy machine spoils them less. Nothing is downloaded.

    python benchmarks/switch.py --quick
    python benchmarks/switch.py --rounds 3 --adapters 1 3 --json
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from farm.lora.layout import Layer, Layout
from farm.lora.patcher import Patcher
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import Adapter, load

RANK = 16
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def build(quick: bool) -> tuple[UNet2DConditionModel, Layout]:
    """The UNet with random weights, and a layout of its attention layers."""
    torch.manual_seed(0)
    widths = (80, 160, 320, 320) if quick else (320, 640, 1280, 1280)
    unet = UNet2DConditionModel(
        block_out_channels=widths,
        cross_attention_dim=768,
        attention_head_dim=8,
        norm_num_groups=16 if quick else 32,
    )
    unet.requires_grad_(False).eval()
    layers = {}
    for path, module in unet.named_modules():
        if isinstance(module, nn.Linear) and path.endswith(ATTENTION):
            shape = (module.out_features, module.in_features)
            bias = module.bias is not None
            layer = Layer(component="unet", path=path, kind="linear", shape=shape, bias=bias, block="in")
            layers[layer.name] = layer
    return unet, Layout(family="sd1", denoisers=("unet",), text_encoders=(), blocks=(), layers=layers)


def write_adapter(path: Path, layout: Layout, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for layer in layout.layers.values():
        key = "lora_unet_" + layer.path.replace(".", "_")
        tensors[f"{key}.lora_up.weight"] = (
            torch.randn(layer.shape[0], RANK, generator=generator) * 0.02
        ).half()
        tensors[f"{key}.lora_down.weight"] = (
            torch.randn(RANK, layer.shape[1], generator=generator) * 0.02
        ).half()
        tensors[f"{key}.alpha"] = torch.tensor(8.0)
    save_file(tensors, path)
    return path


class Ours:
    """The engine: a resident switch, a change of strength, and everything from the file."""

    def __init__(self, unet: UNet2DConditionModel, layout: Layout, files: list[Path], k: int) -> None:
        self.layout, self.files, self.k = layout, files, k
        self.patcher = Patcher({"unet": unet}, layout)
        self.adapters = {str(i): load(path, layout, sha256=str(i)) for i, path in enumerate(files)}
        self.turn = 0
        self.switch()

    def plan(self, names: list[str], strength: float) -> StrengthPlan:
        strengths = dict.fromkeys(self.layout.regions(), (strength,))
        return StrengthPlan(
            steps=1, adapters=tuple(AdapterSchedule(sha256=n, strengths=strengths) for n in names)
        )

    def switch(self) -> None:
        """Another set of k adapters, all in memory."""
        self.turn = 1 - self.turn
        self.show(list(self.adapters)[self.turn * self.k :][: self.k], 0.8)

    def step(self) -> None:
        """The same set at another strength, as between two steps."""
        self.show(list(self.adapters)[self.turn * self.k :][: self.k], random.uniform(0.1, 1))

    def cold(self) -> None:
        """From the files to patched weights."""
        self.turn = 1 - self.turn
        for i in range(self.turn * self.k, (self.turn + 1) * self.k):
            self.adapters[str(i)] = self._load(i)
        self.show(list(self.adapters)[self.turn * self.k :][: self.k], 0.8)

    def unchanged(self) -> None:
        """A step whose strengths are those of the step before."""
        self.patcher.apply(self.last, self.adapters, 1)

    def show(self, names: list[str], strength: float) -> None:
        self.last = self.plan(names, strength)
        self.patcher.apply(self.last, self.adapters, 1)

    def _load(self, i: int) -> Adapter:
        return load(self.files[i], self.layout, sha256=str(i))


class Diffusers:
    """diffusers with fused weights, as its users switch: unfuse, unload or set, load, fuse."""

    def __init__(self, unet: UNet2DConditionModel, files: list[Path], k: int) -> None:
        from diffusers import StableDiffusionPipeline

        self.unet: Any = unet
        self.convert = StableDiffusionPipeline.lora_state_dict
        self.files, self.k, self.turn = files, k, 0
        self.loaded = False
        self.cold()

    def cold(self) -> None:
        """Unfuse and unload one set of k adapters, load another from its files and fuse it."""
        self.turn = 1 - self.turn
        if self.loaded:
            self.unet.unfuse_lora()
            self.unet.unload_lora()
        names = []
        for i in range(self.turn * self.k, (self.turn + 1) * self.k):
            state, alphas = self.convert(load_file(self.files[i]))[:2]
            names.append(f"a{i}")
            self.unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas, adapter_name=names[-1])
        self.names = names
        self.unet.set_adapters(names, [0.8] * self.k)
        self.unet.fuse_lora()
        self.loaded = True

    def step(self) -> None:
        """Another strength: unfuse, set, fuse."""
        self.unet.unfuse_lora()
        self.unet.set_adapters(self.names, [random.uniform(0.1, 1)] * self.k)
        self.unet.fuse_lora()


def measure(k: int, rounds: int, quick: bool) -> dict[str, float]:
    """Best seconds of each contender for sets of k adapters."""
    with tempfile.TemporaryDirectory() as folder:
        unet, layout = build(quick)
        files = [write_adapter(Path(folder) / f"{i}.safetensors", layout, i) for i in range(2 * k)]
        ours = Ours(unet, layout, files, k)
        other, _ = build(quick)
        theirs = Diffusers(other, files, k)
        weights = [unet.get_submodule(layer.path).weight.data for layer in layout.layers.values()]
        copies = [weight.clone() for weight in weights]
        targets = [weight.clone() for weight in weights]

        def memcpy() -> None:
            for target, source in zip(targets, copies, strict=True):
                target.copy_(source)

        contenders: dict[str, Callable[[], None]] = {
            "memcpy": memcpy,
            "ours, resident switch": ours.switch,
            "ours, step change": ours.step,
            "ours, from file": ours.cold,
            "ours, unchanged step": ours.unchanged,
            "diffusers, fused step change": theirs.step,
            "diffusers, fused switch from file": theirs.cold,
        }
        best: dict[str, float] = {}
        for _ in range(rounds):
            for name in random.sample(sorted(contenders), len(contenders)):
                started = perf_counter()
                contenders[name]()
                best[name] = min(best.get(name, float("inf")), perf_counter() - started)
        return {name: best[name] for name in contenders} | {"one UNet forward, 32x32": forward(unet)}


def forward(unet: UNet2DConditionModel) -> float:
    """Seconds of one denoising call: what a step change is to be seen against."""
    sample, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 768)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(3):
            started = perf_counter()
            unet(sample, 10, text)
            best = min(best, perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of SD1.5's widths")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 3], help="adapters in a set")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    results = {k: measure(k, options.rounds, options.quick) for k in options.adapters}
    if options.json:
        print(json.dumps(results))
        return
    for k, seconds in results.items():
        print(f"\n{k} adapter{'s' if k > 1 else ''}, {options.threads} threads, best of {options.rounds}")
        for name, value in seconds.items():
            print(f"  {name:36} {value * 1000:9.1f} ms {value / seconds['memcpy']:8.2f} x memcpy")
        step = seconds["diffusers, fused step change"] / seconds["ours, step change"]
        cold = seconds["diffusers, fused switch from file"] / seconds["ours, from file"]
        share = seconds["ours, step change"] / seconds["one UNet forward, 32x32"]
        print(f"  ours is {step:.1f} x faster for a step change, {cold:.1f} x from file;", end=" ")
        print(f"a step change costs {share:.1%} of a forward pass")


if __name__ == "__main__":
    main()
