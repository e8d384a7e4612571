"""Eight jobs with adapters and curves of their own arrive at random: images per second one by one, in batches, and mixed.

The device's thread is the worker's own (`farm.worker.sample`); queue, store and database are left out. Contenders:

- one by one: `FARM_BATCH_LIMIT=1`
- static: a batch is whoever waits with the same adapters at the same constant strengths, and it is made to its end: what
  servers do that batch requests of one adapter
- mixed, measured: jobs join at any border of steps as far as it pays here (the default); learnt in one round before
- mixed, always: as far as the limit allows, paying or not
- diffusers: its pipeline, adapters loaded before, unfused, one by one; curves by its callback

Every contender sees the same arrivals; rounds are shuffled and the best of each counts. Seconds of the processor tell more than images per
second where the machine is shared. Nothing is downloaded.

    python -m benchmarks.batches
    python -m benchmarks.batches --model half --rounds 3 --threads 2
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from farm.clock import SystemClock
from farm.demo import catalog
from farm.lora.layout import Layout
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.lora.tensors import load as load_adapter
from farm.models.load import load
from farm.models.state import SampleSpec
from farm.worker.batching import Gains
from farm.worker.device import pick_device
from farm.worker.held import Hands, HeldJob
from farm.worker.kit import Kit
from farm.worker.memory import AdapterCache, ModelCache
from farm.worker.models import HotModel
from farm.worker.prepare import Prepared
from farm.worker.progress import Progress
from farm.worker.rates import Rates
from farm.worker.resume import Resumer
from farm.worker.sample import Sampler
from farm.worker.way import LoraWay
from tests.support.tiny import SD15_UNET, tiny_lora, tiny_sd15

JOBS = 8
#: half of SD1.5's widths
HALF = {"block_out_channels": (160, 320, 640, 640), "attention_head_dim": 8, "norm_num_groups": 32}

Curve = tuple[float, ...]


@dataclass(frozen=True)
class Asked:
    """One job: when it comes, and the curve of each adapter."""

    at: float
    seed: int
    curves: Mapping[str, Curve]


@dataclass
class Bench:
    folder: Path
    side: int
    steps: int
    layout: Layout
    files: Mapping[str, Path]
    adapters: Mapping[str, Any]

    @classmethod
    def make(cls, name: str, work: Path, steps: int) -> Bench:
        """The built-in model, or a UNet of half SD1.5's widths at 256 × 256; random LoRAs of rank 16."""
        if name == "demo":
            folder, side = catalog.MODEL_DIR, catalog.SIZE
        else:
            from diffusers import UNet2DConditionModel

            folder, side = tiny_sd15(work / "model"), 256
            UNet2DConditionModel(**{**SD15_UNET, **HALF}).save_pretrained(folder / "unet")
        files = {
            f"a{n}": tiny_lora(work / f"a{n}.safetensors", folder, n, rank=16, scale=0.1) for n in range(4)
        }
        layout = load(folder).layout
        adapters = {key: load_adapter(path, layout, sha256=key) for key, path in files.items()}
        return cls(folder, side, steps, layout, files, adapters)

    def jobs(self, seed: int, spread: float) -> list[Asked]:
        """Two jobs without adapters, two alike, four each with its own; of these three with curves."""
        chance = random.Random(seed)
        one, two, three, four = list(self.files)[:4]
        ramp = tuple(n / self.steps for n in range(self.steps))
        curves: list[dict[str, Curve]] = [
            {}, {}, {one: (0.8,) * self.steps}, {one: (0.8,) * self.steps}, {two: ramp}, {three: ramp[::-1], one: (0.3,) * self.steps},
            {four: (0.6,) * self.steps}, {two: (0.2,) * (self.steps // 2) + (0.9,) * (self.steps - self.steps // 2)},
        ]  # fmt: skip
        chance.shuffle(curves)
        times = [0.0, *sorted(chance.uniform(0, spread) for _ in range(JOBS - 1))]
        return [Asked(at, n, each) for n, (at, each) in enumerate(zip(times, curves, strict=True))]

    def spec(self, seeds: tuple[int, ...]) -> SampleSpec:
        return SampleSpec(
            prompt="a house on the hill", width=self.side, height=self.side, steps=self.steps, guidance_scale=catalog.GUIDANCE,
            sampler="ddim", seeds=seeds,
        )  # fmt: skip

    def plan(self, curves: Mapping[str, Curve]) -> StrengthPlan:
        regions = self.layout.regions()
        schedules = [
            AdapterSchedule(sha256=key, strengths=dict.fromkeys(regions, c)) for key, c in curves.items()
        ]
        return StrengthPlan(steps=self.steps, adapters=tuple(schedules))


class Ours:
    """The device's thread of a worker."""

    def __init__(self, bench: Bench, limit: int, *, measured: bool) -> None:
        clock, device = SystemClock(), pick_device("cpu")
        self._bench = bench
        tree: Any = SimpleNamespace(path=bench.folder, close=lambda: None)
        models: ModelCache[HotModel] = ModelCache(1)
        models.get("m", lambda: HotModel(load(bench.folder), tree, device, clock, way=LoraWay()))
        progress = Progress("bench", lambda event: None, lambda job, data: None, lambda picture: b"")
        effects: Any = SimpleNamespace(step=lambda machine, states: machine.step(states))
        keeper: Any = None
        self.gains = Gains(limit, measured=measured)
        kit = Kit(
            effects=effects, device=device, models=models, adapters=AdapterCache(0, 0), hands=Hands(clock),
            progress=progress, rates=Rates(), gains=self.gains, clock=clock,
            resumer=Resumer(keeper, device, clock, seconds=0, compiled=False), preview_every=0, way=LoraWay(), compiled=False,
        )  # fmt: skip
        self._sampler = Sampler(kit)
        self._sampler.start()

    def make(self, curves: Mapping[str, Curve], seeds: tuple[int, ...]) -> None:
        """Sample a job's pictures; returns when they are there."""
        job: Any = SimpleNamespace(
            model=SimpleNamespace(key="m"),
            batch_key="k",
            broken_off=False,
            spec=SimpleNamespace(total_steps=self._bench.steps),
        )
        bench = self._bench
        work = Prepared(
            job=job, held=HeldJob(str(seeds), 1), spec=bench.spec(seeds), plan=bench.plan(curves), second_plan=None,
            adapters={key: bench.adapters[key] for key in curves}, warnings=(), pins=ExitStack(),
        )  # fmt: skip
        self._sampler.sample(work, lambda: None)  # type: ignore[arg-type,return-value]

    def run(self, jobs: Sequence[Asked]) -> list[float]:
        """Seconds at which each job had its picture."""
        began = time.perf_counter()
        ends = [0.0] * len(jobs)

        def one(number: int, job: Asked) -> None:
            time.sleep(max(0.0, job.at - (time.perf_counter() - began)))
            self.make(job.curves, (job.seed,))
            ends[number] = time.perf_counter() - began

        threads = [threading.Thread(target=one, args=pair) for pair in enumerate(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends

    def close(self) -> None:
        self._sampler.close()


def static(ours: Ours, jobs: Sequence[Asked]) -> list[float]:
    """Batches of those that wait with equal adapters at equal constant strengths, oldest first, each made to its end."""
    began = time.perf_counter()
    ends = [0.0] * len(jobs)
    waiting = list(enumerate(jobs))
    while waiting:
        time.sleep(max(0.0, waiting[0][1].at - (time.perf_counter() - began)))
        first = waiting[0][1]
        now = time.perf_counter() - began
        # a curve is one set of strengths too, when all begin together
        batch = [item for item in waiting if item[1].at <= now and item[1].curves == first.curves]
        ours.make(first.curves, tuple(job.seed for _, job in batch))
        waiting = [item for item in waiting if item not in batch]
        for number, _ in batch:
            ends[number] = time.perf_counter() - began
    return ends


def peer(bench: Bench) -> Callable[[Sequence[Asked]], list[float]]:
    """diffusers' pipeline, one job after the other."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(bench.folder, local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    for name, path in bench.files.items():
        pipeline.load_lora_weights(path, adapter_name=name)

    def strengths(curves: Mapping[str, Curve], step: int) -> None:
        pipeline.set_adapters(list(curves), [curve[step] for curve in curves.values()])

    def run(jobs: Sequence[Asked]) -> list[float]:
        began, ends = time.perf_counter(), []
        for job in jobs:
            time.sleep(max(0.0, job.at - (time.perf_counter() - began)))

            def between(_: Any, step: int, __: Any, values: Any, job: Asked = job) -> Any:
                if step + 1 < bench.steps and any(len(set(curve)) > 1 for curve in job.curves.values()):
                    strengths(job.curves, step + 1)
                return values

            if job.curves:
                pipeline.enable_lora()
                strengths(job.curves, 0)
            else:
                pipeline.disable_lora()
            pipeline(
                "a house on the hill", width=bench.side, height=bench.side, num_inference_steps=bench.steps,
                guidance_scale=catalog.GUIDANCE, generator=torch.Generator().manual_seed(job.seed),
                callback_on_step_end=between,
            )  # fmt: skip
            ends.append(time.perf_counter() - began)
        return ends

    return run


def measure(name: str, rounds: int, load_factor: float, steps: int) -> dict[str, Any]:
    """Best images per second and mean seconds from arrival to picture, by contender."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.make(name, Path(folder), steps)
        single, measured, always = (
            Ours(bench, 1, measured=True),
            Ours(bench, JOBS, measured=True),
            Ours(bench, JOBS, measured=False),
        )
        alone = min(_seconds(lambda: single.make({}, (1,))) for _ in range(3))
        spread = alone * JOBS / load_factor
        contenders: dict[str, Callable[[Sequence[Asked]], list[float]]] = {
            "one by one": single.run,
            "static batches": lambda jobs: static(single, jobs),
            "mixed, measured": measured.run,
            "mixed, always": always.run,
            "diffusers, one by one": peer(bench),
        }
        for run in contenders.values():
            run(bench.jobs(0, spread))  # warms up, and lets it learn
        best: dict[str, list[tuple[float, float, float]]] = {key: [] for key in contenders}
        for number in range(rounds):
            jobs = bench.jobs(1 + number % 2, spread)
            for key in random.sample(sorted(contenders), len(contenders)):
                worked = time.process_time()
                ends = contenders[key](jobs)
                worked = time.process_time() - worked
                waits = [end - job.at for end, job in zip(ends, jobs, strict=True)]
                best[key].append((JOBS / max(ends), sum(waits) / JOBS, worked / JOBS))
        sizes = measured.gains.sizes(time.monotonic())
        for ours in (single, measured, always):
            ours.close()
    return {
        "model": name,
        "steps": steps,
        "one_job_s": alone,
        "batch_size": sizes.get("k", 1),
        "images_per_s": {key: max(rate for rate, _, _ in found) for key, found in best.items()},
        "seconds_to_picture": {key: min(wait for _, wait, _ in found) for key, found in best.items()},
        "cpu_s_per_image": {key: min(cpu for _, _, cpu in found) for key, found in best.items()},
    }


def _seconds(act: Callable[[], object]) -> float:
    """Of the processor: arrivals must not depend on what else the machine does."""
    began = time.process_time()
    act()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("demo", "half"), nargs="+", default=["demo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--load", type=float, default=2.0, help="jobs that arrive while one is made alone on an idle machine"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    for name in options.model:
        # a tiny model of the tests sets one thread
        torch.set_num_threads(options.threads)
        results.append(measure(name, options.rounds, options.load, options.steps))
    if options.json:
        print(json.dumps(results))
        return
    for found in results:
        print(
            f"\n{found['model']}: {JOBS} jobs of {found['steps']} steps, {options.threads} threads, best of {options.rounds}; "
            f"one job alone {found['one_job_s']:.2f} s, batches settled at {found['batch_size']}"
        )
        base = found["images_per_s"]["one by one"]
        for key, rate in found["images_per_s"].items():
            wait = found["seconds_to_picture"][key]
            cpu = found["cpu_s_per_image"]
            print(
                f"  {key:24} {rate:7.3f} images/s {rate / base:6.2f} x one by one; {wait:6.2f} s to a picture; "
                f"{cpu[key]:6.2f} s of processor an image, {cpu[key] / cpu['one by one']:5.2f} x"
            )


if __name__ == "__main__":
    main()
