"""How many pictures a pass pays for, and who may join whom: decisions on numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.lora.layout import Region
from farm.lora.schedule import AdapterSchedule, StrengthPlan
from farm.worker.batching import (
    ENOUGH,
    FORGET_SECONDS,
    Gains,
    Passenger,
    Running,
    constant_weights,
    joined_mode,
)
from farm.worker.mode import Mode

NOW = 1000.0
ONE = Passenger(model_key="m", batch_key="k", pictures=1, weights="w")


def learnt(seconds: dict[int, float], *, limit: int = 8, mixed: bool = True, now: float = NOW) -> Gains:
    """Steps of these sizes took so long."""
    gains = Gains(limit, measured=True)
    for pictures, each in seconds.items():
        for _ in range(ENOUGH):
            gains.took("k", pictures, each, mixed=None if pictures == 1 else mixed, now=now)
    return gains


def useful(gains: Gains, now: float = NOW, *, mixed: bool = True) -> int:
    return gains.useful("k", mixed=mixed, now=now)


def test_a_job_is_alone_until_its_speed_is_known_and_then_two_are_tried() -> None:
    gains = Gains(8, measured=True)
    assert useful(gains) == 1
    gains.took("k", 1, 1.0, mixed=None, now=NOW)
    assert useful(gains) == 1
    gains.took("k", 1, 1.0, mixed=None, now=NOW)
    assert useful(gains) == 2
    assert gains.useful("other", mixed=True, now=NOW) == 1


def test_it_grows_while_that_makes_more_pictures_a_second() -> None:
    assert useful(learnt({1: 1.0, 2: 1.2})) == 4
    assert useful(learnt({1: 1.0, 2: 1.2, 4: 1.8})) == 8
    assert useful(learnt({1: 1.0, 2: 1.2, 4: 1.8, 8: 3.0})) == 8
    assert useful(learnt({1: 1.0, 2: 1.2, 4: 1.8}, limit=5)) == 5
    # 4 was no gain: 3 may be one
    assert useful(learnt({1: 1.0, 2: 1.2, 4: 2.4})) == 3
    assert useful(learnt({1: 1.0, 2: 1.2, 3: 1.8, 4: 2.4})) == 2


def test_where_a_shared_pass_loses_jobs_stay_alone_and_it_is_tried_again_later() -> None:
    gains = learnt({1: 1.0, 2: 2.0})
    assert useful(gains) == 1
    assert useful(gains, NOW + FORGET_SECONDS - 1) == 1
    assert useful(gains, NOW + FORGET_SECONDS + 1) == 2


def test_equal_weights_and_mixed_ones_have_speeds_of_their_own() -> None:
    gains = learnt({1: 1.0, 2: 2.5}, mixed=True)
    assert (useful(gains, mixed=True), useful(gains, mixed=False)) == (1, 2)
    assert gains.sizes(NOW) == {"k": 1}
    gains.took("k", 2, 1.1, mixed=False, now=NOW)
    assert gains.sizes(NOW) == {"k": 2}


def test_what_ran_out_of_memory_is_halved_for_a_while() -> None:
    gains = learnt({1: 1.0, 2: 1.1, 4: 1.3})
    gains.ran_out("k", 6, NOW)
    assert useful(gains) == 3
    assert useful(gains, NOW + FORGET_SECONDS + 1) == 8
    gains.ran_out("k", 1, NOW)
    assert useful(gains) == 1


def test_the_limit_alone_decides_when_nothing_is_to_be_measured() -> None:
    gains = Gains(6, measured=False)
    assert useful(gains) == 6
    gains.ran_out("k", 4, NOW)
    assert useful(gains) == 2
    assert useful(Gains(1, measured=False)) == 1


@given(
    seconds=st.dictionaries(st.integers(1, 12), st.floats(0.01, 10), min_size=1, max_size=6),
    limit=st.integers(1, 8),
)
def test_the_size_is_within_its_limit_and_at_most_twice_what_pays(
    seconds: dict[int, float], limit: int
) -> None:
    size = useful(learnt(seconds, limit=limit))
    assert 1 <= size <= limit
    assert size <= 2 * max(seconds)


def joined(running: Running, job: Passenger, wish: str = "auto", gains: Gains | None = None) -> Mode | None:
    return joined_mode(running, job, wish, gains or Gains(8, measured=False), NOW)  # type: ignore[arg-type]


def of(*riders: Passenger, mode: Mode = "patch", left: int = 10, free: int = 1000) -> Running:
    return Running(riders=riders, mode=mode, steps_left=left, memory_free=free)


def test_equal_weights_ride_as_they_are_and_others_by_branches() -> None:
    other = replace(ONE, weights="v")
    assert joined(of(ONE), ONE) == "patch"
    assert joined(of(ONE), ONE, "patch") == "patch"
    assert joined(of(ONE), other) == "branch"
    assert joined(of(ONE), other, "branch") == "branch"
    assert joined(of(ONE), other, "patch") is None
    assert joined(of(ONE, other, mode="branch"), ONE) == "branch"
    curve = replace(ONE, weights=None)
    assert joined(of(curve), curve) == "branch"


def test_who_may_not_join() -> None:
    other = replace(ONE, weights="v")
    dora = replace(other, no_branch="it is a DoRA")
    assert joined(of(ONE), dora) is None
    assert joined(of(dora), ONE) is None
    assert joined(of(dora), dora) == "patch"
    # no adapter of the denoiser, but one of the text encoder
    assert joined(of(ONE, mode="branch"), replace(ONE, no_branch="it is a DoRA")) is None
    assert joined(of(ONE), replace(ONE, no_patch="it is quantised")) is None
    assert joined(of(ONE, mode="branch"), replace(ONE, no_patch="it is quantised")) == "branch"
    for stranger in (
        replace(ONE, batch_key="l"), replace(ONE, model_key="n"), replace(ONE, alone="it has a second pass"),
    ):  # fmt: skip
        assert joined(of(ONE), stranger) is None
        assert joined(of(stranger), ONE) is None
    assert joined(of(ONE, mode="diffusers"), ONE) is None
    # for one step it is not worth changing the way of those that run
    assert joined(of(ONE, left=1), other) is None
    assert joined(of(ONE, left=1, mode="branch"), other) == "branch"


def test_pictures_count_and_so_does_memory() -> None:
    gains = Gains(4, measured=False)
    four = replace(ONE, pictures=3)
    assert joined(of(ONE), four, gains=gains) == "patch"
    assert joined(of(ONE, ONE), four, gains=gains) is None
    gains.took_memory("k", 2, 400)
    assert joined(of(ONE, free=479), ONE, gains=gains) is None
    assert joined(of(ONE, free=481), ONE, gains=gains) == "patch"


def test_weights_are_constant_where_no_denoiser_changes() -> None:
    class Delta:
        deltas = {"unet.a": 1, "text_encoder.a": 1}

    unet, text = Region("unet", "in", 0), Region("text_encoder", "all", 0)

    def key(unet_curve: tuple[float, ...], text_curve: tuple[float, ...] = (1.0, 1.0)) -> object:
        schedule = AdapterSchedule(sha256="a", strengths={unet: unet_curve, text: text_curve})
        return constant_weights(StrengthPlan(steps=2, adapters=(schedule,)), {"a": Delta()}, ("unet",))

    assert key((0.5, 0.5)) == key((0.5, 0.5), (0.1, 0.9)) is not None
    assert key((0.5, 0.5)) != key((0.6, 0.6))
    assert key((0.5, 0.6)) is None
    assert key((0.0, 0.0)) == constant_weights(StrengthPlan(steps=2), {}, ("unet",))


def test_keys_are_forgotten_when_there_are_many() -> None:
    gains = Gains(8, measured=True)
    for number in range(500):
        gains.took(f"key{number}", 1, 1.0, mixed=None, now=NOW)
    assert 0 < len(gains.sizes(NOW)) <= 200
    with pytest.raises(KeyError):
        gains.sizes(NOW)["key0"]
