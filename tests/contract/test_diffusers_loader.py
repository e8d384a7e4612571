"""Adapters by diffusers' own loader mean what they mean to diffusers and to our engine, and leave nothing behind."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from farm.errors import BadRequest
from farm.lora.patcher import Patcher
from farm.lora.tensors import load as load_ours
from farm.models.diffusers_loader import DiffusersAdapter, DiffusersPatcher, load_adapter, pipeline_of
from farm.models.load import LoadedModel, load
from farm.models.sampler import SampleSpec, StepMachine
from farm.models.strengths import PatcherLike
from tests.support.patching import make_plan
from tests.support.tiny import tiny_lora, tiny_sd15, tiny_sdxl

SPEC = SampleSpec(
    prompt="a red fox", negative_prompt="blue", width=64, height=64, steps=3, guidance_scale=4.0, sampler="ddim", seeds=(5,)
)  # fmt: skip
CURVE = (0.2, 0.9, 0.9)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {
            name: tiny_lora(folder / f"{name}.safetensors", folder, seed=n) for n, name in enumerate("ab", 3)
        }
        self.model: LoadedModel = load(folder)
        self.layout = self.model.layout

    def adapters(self) -> dict[str, DiffusersAdapter]:
        return {name: load_adapter(file, self.layout, name, name) for name, file in self.files.items()}

    def patcher(self, *, fuse: bool) -> DiffusersPatcher:
        return DiffusersPatcher(
            pipeline_of(self.model), self.layout, self.model.modules, fuse=fuse, pristine="device"
        )

    def run(self, patcher: PatcherLike, adapters: Any, **curves: tuple[float, ...] | float) -> Tensor:
        machine = StepMachine(self.model, patcher)
        state = machine.begin(SPEC, make_plan(self.layout, SPEC.steps, **curves), adapters)
        while not state.done:
            machine.step([state])
        return state.latents

    def digest(self) -> str:
        found = hashlib.sha256()
        for name, module in sorted(self.model.modules.items()):
            for key, tensor in sorted(module.state_dict().items()):
                found.update(f"{name}.{key}".encode() + tensor.numpy().tobytes())
        return found.hexdigest()


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    make = {"sd15": tiny_sd15, "sdxl": tiny_sdxl}[request.param]
    return Bench(make(tmp_path_factory.mktemp("models") / request.param))


@pytest.mark.parametrize("fuse", [False, True])
def test_a_curve_gives_what_the_engine_gives(bench: Bench, fuse: bool) -> None:
    before = bench.digest()
    ours = Patcher(bench.model.modules, bench.layout, pristine="device")
    wanted = bench.run(ours, {n: load_ours(f, bench.layout) for n, f in bench.files.items()}, a=CURVE, b=0.5)
    ours.restore()
    theirs = bench.patcher(fuse=fuse)
    found = bench.run(theirs, bench.adapters(), a=CURVE, b=0.5)
    plain = bench.run(theirs, {}, **{})
    theirs.release()
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-4)
    assert not torch.allclose(plain, wanted, atol=1e-2)
    assert bench.digest() == before


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_a_constant_strength_is_set_adapters(bench: Bench) -> None:
    patcher = bench.patcher(fuse=False)
    found = bench.run(patcher, bench.adapters(), a=0.7, b=-0.5)
    patcher.release()
    judge = DiffusionPipeline.from_pretrained(bench.folder)
    judge.set_progress_bar_config(disable=True)
    for name, file in bench.files.items():
        judge.load_lora_weights(file, adapter_name=name)
    judge.set_adapters(["a", "b"], [0.7, -0.5])
    judge.scheduler = StepMachine(bench.model, patcher).scheduler(SPEC)
    wanted = judge(
        SPEC.prompt, negative_prompt=SPEC.negative_prompt, width=64, height=64, num_inference_steps=SPEC.steps,
        guidance_scale=SPEC.guidance_scale, generator=torch.Generator("cpu").manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_nothing_is_left_after_many_fused_jobs_and_an_error(bench: Bench) -> None:
    before, patcher, adapters = bench.digest(), bench.patcher(fuse=True), bench.adapters()
    for number in range(6):
        plan = make_plan(bench.layout, 1, **{"ab"[number % 2]: 0.3 * number - 0.7})
        patcher.apply(plan, adapters, 1)
    broken = DiffusersAdapter(
        sha256="c", name="broken", state={"nonsense": torch.zeros(1)}, deltas={}, bytes=4, missed=(),
        info=adapters["a"].info, warnings=(),
    )  # fmt: skip
    with pytest.raises(BadRequest, match="diffusers cannot read broken"):
        patcher.apply(make_plan(bench.layout, 1, c=1.0), {"c": broken}, 1)
    patcher.restore()
    assert bench.digest() == before
