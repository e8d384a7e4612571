"""When the store counts as away, and when no more."""

from __future__ import annotations

from farm.errors import Transient
from farm.scheduler.storewatch import LOOK_SECONDS, StoreWatch
from tests.unit.worker.fakes import ManualClock


def test_g06_the_store_is_away_after_two_looks_without_an_answer_since_the_first_of_them() -> None:
    clock, answers = ManualClock(), [False, True, False, False, False, True, False]
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        if not answers.pop(0):
            raise Transient("away")

    watch = StoreWatch(ask, clock, lambda work: work() and None)
    found = []
    while answers:
        found.append(watch.away_since())
        # between the looks it is not asked
        assert watch.away_since() == found[-1]
        clock.sleep(LOOK_SECONDS)
    assert asked == 7
    first = found[3]
    assert first is not None
    # of the third look, two seconds before it was believed
    assert (first.second, found) == (2 * LOOK_SECONDS, [None, None, None, first, first, None, None])


def test_g06_a_look_that_hangs_keeps_the_last_answer() -> None:
    clock = ManualClock()
    watch = StoreWatch(lambda: None, clock, lambda work: None)
    for _ in range(3):
        assert watch.away_since() is None
        clock.sleep(LOOK_SECONDS)
