"""Patching or branching: the choice follows what was measured, and the picture does not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from farm.errors import BadRequest
from farm.lora.schedule import StrengthPlan
from farm.lora.tensors import Adapter
from farm.lora.tensors import load as load_adapter
from farm.models.load import LoadedModel, load
from farm.models.sampler import SampleSpec
from farm.worker.device import pick_device
from farm.worker.mode import Costs, Work, changes_of, choose
from farm.worker.models import HotModel
from farm.worker.rates import ModeRates
from farm.worker.way import LoraWay
from tests.support.patching import make_plan
from tests.support.tiny import tiny_lora, tiny_sd15
from tests.unit.worker.fakes import ManualClock

SECONDS = st.floats(1e-6, 10)
WORK = Work(steps=20, changes=20, layers=100)
CURVE = (0.2, 0.5, 0.8, 0.0)


@given(layer=SECONDS, branch=SECONDS, steps=st.integers(1, 100), layers=st.integers(1, 1000), data=st.data())
def test_auto_takes_what_costs_less(
    layer: float, branch: float, steps: int, layers: int, data: st.DataObject
) -> None:
    changes = data.draw(st.integers(1, steps))
    found = choose(
        "auto", Work(steps=steps, changes=changes, layers=layers), Costs(layer=layer, branch=branch)
    )
    costs = {"patch": layer * layers * changes, "branch": branch * steps}
    assert costs[found] == min(costs.values())


def test_what_was_not_measured_is_tried_where_it_is_likely_to_win() -> None:
    constant = Work(steps=20, changes=1, layers=100)
    assert choose("auto", WORK, Costs()) == "patch"  # so that a change gets measured
    assert choose("auto", WORK, Costs(layer=0.001)) == "branch"
    assert choose("auto", constant, Costs(layer=0.001)) == "patch"


def test_a_wish_is_followed_and_what_cannot_be_is_not_chosen() -> None:
    cheap: dict[str, Any] = {"patch": Costs(layer=1e-6, branch=1.0), "branch": Costs(layer=1.0, branch=1e-6)}
    no_branch = Work(steps=20, changes=20, layers=100, no_branch="it is a DoRA")
    no_patch = Work(steps=20, changes=1, layers=100, no_patch="it is quantised")
    assert choose("patch", WORK, cheap["branch"]) == "patch"
    assert choose("branch", WORK, cheap["patch"]) == "branch"
    assert choose("auto", no_branch, cheap["branch"]) == "patch"
    assert choose("auto", no_patch, cheap["patch"]) == "branch"
    assert choose("auto", Work(steps=20, changes=20, layers=0), cheap["branch"]) == "patch"
    with pytest.raises(BadRequest, match="it is a DoRA"):
        choose("branch", no_branch, Costs())
    with pytest.raises(BadRequest, match="it is quantised"):
        choose("patch", no_patch, Costs())
    with pytest.raises(BadRequest, match="it is a DoRA; it is quantised"):
        choose("auto", Work(steps=1, changes=1, layers=1, no_branch="it is a DoRA", no_patch="it is quantised"), Costs())  # fmt: skip


def test_rates_become_costs() -> None:
    rates = ModeRates()
    assert rates.costs("key", 1) == Costs()
    rates.wrote(1.0, 10, first=True)
    assert rates.costs("key", 1).layer == pytest.approx(0.1)
    rates.wrote(9.0, 10, first=True)  # copies the weights as well: it counts only for want of better
    assert rates.costs("key", 1).layer == pytest.approx(0.1)
    rates.wrote(0.5, 10, first=False)
    assert rates.costs("key", 1).layer == pytest.approx(0.1 - 0.3 * 0.05)
    rates.step_took("patch", "key", 1.0)
    assert rates.costs("key", 1).branch is None
    rates.step_took("branch", "key", 1.2)
    assert rates.costs("key", 4).branch == pytest.approx(0.8)
    assert rates.costs("other", 1).branch is None
    rates.step_took("branch", "other", 1.0)
    rates.step_took("patch", "other", 1.1)
    assert rates.costs("other", 1).branch == 0  # noise


class _Tree:
    """Files that nobody holds."""

    path = Path()

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("models") / "sd15")


def hot(folder: Path, dtype: str = "float32", *, compiled: bool = False) -> tuple[HotModel, LoadedModel]:
    loaded = load(folder, dtype=dtype)
    model = HotModel(loaded, _Tree(), pick_device("cpu"), ManualClock(), way=LoraWay(), compiled=compiled)  # type: ignore[arg-type]
    return model, loaded


def pictures(model: HotModel, plan: StrengthPlan, adapters: dict[str, Adapter]) -> np.ndarray[Any, Any]:
    machine = model.machine
    assert machine is not None
    spec = SampleSpec(
        prompt="a red fox", negative_prompt="", width=64, height=64, steps=plan.steps, guidance_scale=4.0,
        sampler="euler", seeds=(1, 2),
    )  # fmt: skip
    state = machine.begin(spec, plan, adapters)
    while not state.done:
        machine.step([state])
    return np.stack([np.asarray(image, dtype=np.float32) for image in machine.finish(state)])


def test_a_job_gives_the_same_picture_either_way(folder: Path, tmp_path: Path) -> None:
    model, loaded = hot(folder)
    names = ("a", "b")
    adapters = {
        name: load_adapter(tiny_lora(tmp_path / name, folder, seed), loaded.layout, sha256=name)
        for seed, name in enumerate(names)
    }
    plan = make_plan(loaded.layout, 4, a=CURVE, b=0.4)
    before = {name: t.clone() for name, t in loaded.unet.state_dict().items()}
    found = {}
    for wanted in ("patch", "branch", "patch"):
        model.patcher.use(wanted)  # type: ignore[arg-type]
        found[wanted] = pictures(model, plan, adapters)
    model.patcher.use("branch")
    assert np.abs(found["branch"] - found["patch"]).max() <= 1  # of 255
    plain = pictures(model, make_plan(loaded.layout, 4), {})
    assert np.abs(found["patch"] - plain).mean() > 5
    assert all(torch.equal(t, before[name]) for name, t in loaded.unet.state_dict().items())


def test_a_hot_model_chooses_for_a_job(folder: Path, tmp_path: Path) -> None:
    model, loaded = hot(folder)
    adapters = {"a": load_adapter(tiny_lora(tmp_path / "a", folder), loaded.layout, sha256="a")}
    constant, ramp = make_plan(loaded.layout, 4, a=0.5), make_plan(loaded.layout, 4, a=CURVE)
    assert (changes_of(constant, loaded.layout.denoisers), changes_of(ramp, loaded.layout.denoisers)) == (
        1,
        4,
    )
    assert model.choose_mode(ramp, adapters, "key", 1) == "patch"
    pictures(model, ramp, adapters)
    assert model.patcher.rates.costs("key", 1).layer is not None
    assert model.choose_mode(ramp, adapters, "key", 1) == "branch"
    pictures(model, ramp, adapters)
    model.patcher.rates.step_took("patch", "key", 1.0)
    model.patcher.rates.step_took("branch", "key", 2.0)
    assert model.choose_mode(ramp, adapters, "key", 1) == "patch"
    assert model.choose_mode(make_plan(loaded.layout, 4), {}, "key", 1) == "patch"


def test_a_quantised_model_is_branched_beside(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    adapters = {"a": load_adapter(tiny_lora(tmp_path / "a", folder), loaded.layout, sha256="a")}
    plan = make_plan(loaded.layout, 1, a=0.5)
    layer: Any = loaded.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    models = {
        wish: HotModel(loaded, _Tree(), pick_device("cpu"), ManualClock(), way=LoraWay(mode=wish))  # type: ignore[arg-type]
        for wish in ("auto", "patch")
    }
    assert models["auto"].choose_mode(plan, adapters, "key", 1) == "branch"
    assert models["auto"].choose_mode(make_plan(loaded.layout, 1), {}, "key", 1) == "patch"
    with pytest.raises(BadRequest, match=r"attn1\.to_q is quantised, its weight cannot be written"):
        models["patch"].choose_mode(plan, adapters, "key", 1)


def test_compiling_is_told_to_the_denoiser_alone(folder: Path) -> None:
    _, loaded = hot(folder, compiled=True)
    assert loaded.unet._compiled_call_impl is not None
    assert loaded.modules["text_encoder"]._compiled_call_impl is None
    assert hot(folder)[1].unet._compiled_call_impl is None
