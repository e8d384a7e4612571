"""lbw vectors, presets and ranges by index."""

from __future__ import annotations

import pytest

from farm.lora.layout import Layout, Region
from farm.prompt.blocks import (
    PRESETS,
    VECTORS,
    Lbw,
    lbw_factors,
    lengths,
    range_factors,
    read_blocks,
    read_lbw,
)
from farm.prompt.explain import generic_layout
from farm.prompt.mistakes import Mistake
from tests.unit.prompt.models import DEMO, FLUX, SD1, SDXL, WAN

#: the presets that lora-block-weight ships, for 17 factors
SHIPPED = {
    "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "ALL": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
    "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
    "ALL0.5": "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5",
}


def by_label(layout: Layout, lbw: Lbw) -> dict[str, float]:
    factors = lbw_factors(lbw, layout)
    return {"BASE": factors.outside_in, **dict(zip(layout.blocks, factors.blocks, strict=True))}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_give_the_shipped_factors_to_blocks_with_attention(name: str) -> None:
    preset, vector = by_label(SD1, Lbw(preset=name.lower())), by_label(SD1, read_lbw(SHIPPED[name]))
    for label in ("BASE", *VECTORS[17]):
        assert preset[label] == vector[label]


def test_presets_of_sdxl() -> None:
    shallow = {label for label, factor in by_label(SDXL, Lbw(preset="INS")).items() if factor}
    assert shallow & set(VECTORS[12]) == {"IN04", "IN05"}
    deep = {label for label, factor in by_label(SDXL, Lbw(preset="OUTD")).items() if factor}
    assert deep & set(VECTORS[12]) == {"OUT00", "OUT01", "OUT02"}
    assert all(by_label(WAN, Lbw(preset="ALL")).values())
    middle = by_label(WAN, Lbw(preset="MIDD"))
    assert [middle[label] for label in WAN.blocks] == [0, 1, 1, 1, 1, 0]


def test_presets_of_ones_own_come_first() -> None:
    own = {"Mine": [1.0] + [0.25] * 25, "all": (0.0,) * 17}
    assert set(lbw_factors(Lbw(preset="mine"), SD1, own).blocks) == {0.25}
    assert set(lbw_factors(Lbw(preset="ALL"), SD1, own).blocks) == {0.0}
    with pytest.raises(Mistake, match="no preset") as found:
        lbw_factors(Lbw(preset="nope"), SD1, own)
    assert "mine" in found.value.hint


@pytest.mark.parametrize(
    ("layout", "length"), [(SD1, 17), (SD1, 26), (SDXL, 12), (SDXL, 20), (DEMO, 10), (WAN, 7)]
)
def test_vectors_name_blocks_by_label(layout: Layout, length: int) -> None:
    vector = [0.5, *range(1, length)]
    found = by_label(layout, Lbw(factors=tuple(map(float, vector))))
    labels = VECTORS.get(length, layout.blocks)
    assert found["BASE"] == 0.5
    assert [found[label] for label in labels] == list(range(1, length))
    assert all(found[label] == 0 for label in layout.blocks if label not in labels)


def test_base_multiplies_text_encoders_and_layers_outside_blocks() -> None:
    factors = lbw_factors(read_lbw("0.5" + ",1" * 19), SDXL)
    assert factors.of(Region("text_encoder_2", "all", -1)) == 0.5
    assert factors.of(Region("unet", "in", -1)) == 0.5
    assert factors.of(Region("unet", "in", 3)) == 1.0


def test_flux_vector() -> None:
    factors = lbw_factors(Lbw(factors=tuple(float(number) for number in range(61))), FLUX)
    assert factors.of(Region("text_encoder", "all", -1)) == 0
    assert factors.of(Region("text_encoder_2", "all", -1)) == 1
    assert factors.of(Region("transformer", "in", -1)) == 2
    assert factors.of(Region("transformer", "in", 0)) == 3
    assert factors.of(Region("transformer", "out", 56)) == 59
    assert factors.of(Region("transformer", "out", -1)) == 60


def test_lengths() -> None:
    assert [lengths(layout) for layout in (SD1, SDXL, DEMO, FLUX)] == [(17, 26), (12, 20), (10,), (61,)]
    assert lengths(generic_layout()) == (12, 17, 20, 26)
    with pytest.raises(Mistake, match="3 factors"):
        lbw_factors(read_lbw("1,1,1"), SD1)


def test_ranges() -> None:
    factors = range_factors(read_blocks("0-5=0.5/24=0"), SD1)
    assert factors.blocks == (0.5,) * 6 + (1.0,) * 18 + (0.0,)
    assert factors.of(Region("unet", "in", -1)) == factors.of(Region("text_encoder", "all", -1)) == 1.0
