"""What a worker learns of downloads and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from farm.lora.layout import Layout, Region
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.worker.measured import measured
from farm.worker.rates import LEAST_BYTES, Rates
from farm.worker.render import steady
from tests.unit.worker.fakes import ManualClock, effects


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_downloads_and_parsing_are_measured_where_they_happen(clock: ManualClock, tmp_path: Path) -> None:
    rates, size = Rates(), 4 * LEAST_BYTES

    def fetch(sha256: str, path: Path) -> None:
        path.write_bytes(bytes(size))
        clock.sleep(2.0)

    def load_adapter(*given: object) -> str:
        clock.sleep(0.5)
        return "adapter"

    assert (rates.fetch_bytes_per_second(), rates.adapter_seconds()) == (None, None)
    watched = measured(effects(fetch=fetch, load_adapter=load_adapter), rates, clock)
    watched.fetch("a", tmp_path / "a")
    assert rates.fetch_bytes_per_second() == size / 2
    assert watched.load_adapter(tmp_path, cast(Layout, None), "a", "ink") == "adapter"
    assert rates.adapter_seconds() == 0.5
    rates.adapters_patched(4, 1.0)
    assert rates.adapter_seconds() == 0.75


def test_large_downloads_count_for_more_and_small_ones_tell_nothing() -> None:
    rates = Rates()
    rates.fetched(100 * LEAST_BYTES, 1.0)
    rates.fetched(LEAST_BYTES - 1, 60.0)
    assert rates.fetch_bytes_per_second() == 100 * LEAST_BYTES
    rates.fetched(LEAST_BYTES, 0.1)
    assert rates.fetch_bytes_per_second() == pytest.approx(71e6 / 0.8)
    for _ in range(40):
        rates.fetched(10 * LEAST_BYTES, 1.0)
    assert rates.fetch_bytes_per_second() == pytest.approx(10e6, rel=1e-3)


def test_a_failed_download_is_no_measurement(clock: ManualClock, tmp_path: Path) -> None:
    rates = Rates()

    def fetch(sha256: str, path: Path) -> None:
        raise OSError("the store is away")

    with pytest.raises(OSError, match="away"):
        measured(effects(fetch=fetch), rates, clock).fetch("a", tmp_path / "a")
    assert rates.fetch_bytes_per_second() is None


def test_a_curve_is_not_steady() -> None:
    def plan(*curve: float) -> StrengthPlan:
        region = Region(component="unet", block="mid", index=0)
        return StrengthPlan(
            steps=len(curve), adapters=(AdapterSchedule(sha256="a", strengths={region: curve}),)
        )

    assert steady(plan(0.5, 0.5))
    assert not steady(plan(0.5, 0.6))
    assert steady(StrengthPlan(steps=4))
