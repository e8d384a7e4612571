"""Leases by standing counters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farm.scheduler.watch import StandstillWatch


def test_a_counter_that_stands_for_a_lease_is_reported() -> None:
    watch = StandstillWatch(30, longest_round=2)
    reported = [watch.observe({"job": 7}, float(second)) for second in range(32)]
    assert reported[29] == []
    assert reported[30] == ["job"]


def test_a_counter_that_moves_is_not() -> None:
    watch = StandstillWatch(30, longest_round=2)
    assert not any(watch.observe({"job": second // 20}, float(second)) for second in range(200))


def test_time_in_which_nobody_looked_does_not_count() -> None:
    watch = StandstillWatch(30, longest_round=2)
    watch.observe({"job": 1}, 0.0)
    assert watch.observe({"job": 1}, 1000.0) == []
    assert watch.observe({"job": 1}, 1001.0) == []
    for second in range(1002, 1031):
        last = watch.observe({"job": 1}, float(second))
    assert last == ["job"]


def test_keys_that_left_are_forgotten() -> None:
    watch = StandstillWatch(10, longest_round=100)
    watch.observe({"job": 1}, 0.0)
    watch.observe({}, 5.0)
    assert watch.observe({"job": 1}, 12.0) == []


@given(st.lists(st.floats(0.01, 500), min_size=1, max_size=60))
def test_gaps_of_any_length_never_expire_what_moves(gaps: list[float]) -> None:
    watch = StandstillWatch(30, longest_round=2)
    now = 0.0
    for counter, gap in enumerate(gaps):
        assert watch.observe({"job": counter}, now) == []
        now += gap
