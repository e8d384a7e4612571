"""What guidance the models of each family read, from their published configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from farm.models.families import describe
from farm.models.guidance import further_scales, why_no_negative
from tests.unit.models import hollow

FURTHER: Mapping[str, tuple[str, ...]] = {
    "flux.1 dev": ("true_cfg_scale",),
    "flux.1 schnell": ("true_cfg_scale",),
    "hunyuan video": ("true_cfg_scale",),
    "wan 2.2": ("guidance_scale_2",),
}
#: at the guidance that they have by default
WITHOUT_NEGATIVE = {
    "flux.1 dev": "give a true_cfg_scale above 1",
    "flux.1 schnell": "give a true_cfg_scale above 1",
    "hunyuan video": "give a true_cfg_scale above 1",
    "flux.2 dev": "it was made without one",
    "flux.2 klein": "give a guidance_scale above 1",
    "z-image": "give a guidance_scale above 0",
}


@pytest.mark.parametrize("name", hollow.MODELS)
def test_what_a_model_reads(name: str, tmp_path: Path) -> None:
    info = describe(hollow.write(tmp_path / "model", hollow.MODELS[name]))
    assert further_scales(info.family, info.configs) == FURTHER.get(name, ())
    told = why_no_negative(info.family, info.configs, info.defaults["guidance_scale"], None)
    assert told == WITHOUT_NEGATIVE.get(name, "")


@pytest.mark.parametrize("name", ["flux.1 dev", "hunyuan video"])
def test_a_scale_of_its_own_lets_it_act(name: str, tmp_path: Path) -> None:
    info = describe(hollow.write(tmp_path / "model", hollow.MODELS[name]))
    assert why_no_negative(info.family, info.configs, 3.5, 2.0) == ""


def test_distilled_ones_read_their_guidance_as_a_number() -> None:
    configs = {"transformer": {"guidance_embeds": True}}
    assert further_scales("qwenimage", configs) == ("true_cfg_scale",)
    lcm = {"unet": {"time_cond_proj_dim": 256}}
    assert why_no_negative("sd1", lcm, 8.5, None) == "it was made without one"
