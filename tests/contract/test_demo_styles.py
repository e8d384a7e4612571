"""The built-in adapters on the built-in model, through the tag language, the patcher and the step machine.

What is asserted is what a person would see: distances between pictures reduced to 16 by 16 mean colours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from farm.demo import catalog
from farm.lora.patcher import Patcher
from farm.lora.tensors import Adapter
from farm.lora.tensors import load as load_adapter
from farm.models.load import load as load_model
from farm.models.sampler import SampleSpec, StepMachine
from farm.prompt.resolve import AdapterRef, plan
from farm.prompt.tags import parse

STEPS = 10
PROMPT = "a house with a red roof and a tree at sunset"
SEEDS = (3, 4)
NAMES = [adapter.name for adapter in catalog.ADAPTERS]


class Studio:
    """Makes pictures of prompts with tags, as a worker does."""

    def __init__(self) -> None:
        self.model = load_model(catalog.MODEL_DIR)
        self.patcher = Patcher(self.model.modules, self.model.layout)
        self.machine = StepMachine(self.model, self.patcher)
        self.adapters: dict[str, Adapter] = {
            adapter.name: load_adapter(
                adapter.path, self.model.layout, sha256=adapter.name, name=adapter.name
            )
            for adapter in catalog.ADAPTERS
        }
        self._made: dict[str, np.ndarray] = {}

    def picture(self, tags: str) -> np.ndarray:
        """Mean colours of small tiles of `PROMPT` with `tags`, for all seeds: (seeds, 16, 16, 3), 0 … 1."""
        if tags not in self._made:
            parsed = parse(f"{PROMPT} {tags}")
            refs = {name: AdapterRef(name=name, sha256=name) for name in self.adapters}
            resolved = plan(parsed.tags, refs, self.model.layout, STEPS)
            spec = SampleSpec(
                prompt=parsed.text, negative_prompt="", width=64, height=64, steps=STEPS,
                guidance_scale=catalog.GUIDANCE, sampler=catalog.SAMPLER, seeds=SEEDS,
            )  # fmt: skip
            state = self.machine.begin(spec, resolved.plan, self.adapters)
            while state.step < STEPS:
                self.machine.step([state])
            images = [np.asarray(image.resize((16, 16))) for image in self.machine.finish(state)]
            self._made[tags] = np.stack(images) / 255
        return self._made[tags]

    def distance(self, one: str, other: str) -> float:
        return float(np.abs(self.picture(one) - self.picture(other)).mean())


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    torch.set_num_threads(1)
    made = Studio()
    before = made.patcher.fingerprint()
    yield made
    made.patcher.restore()
    assert made.patcher.fingerprint() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_style_changes_the_picture_clearly_and_more_at_full_strength(studio: Studio, name: str) -> None:
    faint, half, full = (studio.distance("", f"<lora:{name}:{strength}>") for strength in (0.2, 0.5, 1))
    assert full > 0.06
    assert faint < full
    assert faint < half + 0.01
    # at half strength the picture lies nearer to the full style than the plain picture does
    assert studio.distance(f"<lora:{name}:0.5>", f"<lora:{name}:1>") < full


def test_styles_differ_from_each_other(studio: Studio) -> None:
    for first in NAMES:
        for second in NAMES:
            if first < second:
                assert studio.distance(f"<lora:{first}:1>", f"<lora:{second}:1>") > 0.04, (first, second)


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_curve_that_switches_on_half_way_lies_between_and_equals_neither(studio: Studio, name: str) -> None:
    late = f"<lora:{name}:0@1,1@5>"
    to_plain, to_style = studio.distance(late, ""), studio.distance(late, f"<lora:{name}:1>")
    whole = studio.distance("", f"<lora:{name}:1>")
    assert 0.005 < to_plain < whole
    assert 0.005 < to_style < whole


def test_components_and_blocks_each_have_their_own_effect(studio: Studio) -> None:
    whole = "<lora:ink:1>"
    for part in ("<lora:ink:te=0:unet=1>", "<lora:ink:te=1:unet=0>", "<lora:ink:1:in=1:mid=0:out=0>"):
        assert studio.distance(part, "") > 0.002, part
        assert studio.distance(part, whole) > 0.002, part


def test_two_adapters_at_once_differ_from_each_alone(studio: Studio) -> None:
    both = "<lora:ink:0.5> <lora:gold:0.6>"
    assert studio.distance(both, "<lora:ink:0.5>") > 0.02
    assert studio.distance(both, "<lora:gold:0.6>") > 0.02
    assert np.array_equal(studio.picture(both), studio.picture("<lora:gold:0.6> <lora:ink:0.5>"))
