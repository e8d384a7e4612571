"""What is told of waiting jobs: places that agree with the order of starts, a reason and a time for each, from little."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.db.models import Job
from farm.jobs.forecast import Forecast, Start
from farm.jobs.guesses import Bar, bar_of, bars_of
from farm.jobs.tallies import OpenTally
from farm.jobs.waiting import LIMITED, NOBODY, Front, Told

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def job(number: int, owner: str = "ann", priority: int = 1, **values: Any) -> Job:
    return Job(
        id=f"job_{number:04}", owner_id=owner, priority=priority, created_at=NOW, model_id="m", **values
    )


def forecast(*owners: str, **values: Any) -> Forecast:
    """A front of these owners' jobs, two seconds apart, numbered by owner."""
    numbers: dict[str, int] = {}
    starts = []
    for place, owner in enumerate(owners):
        numbers[owner] = numbers.get(owner, 0) + 1
        starts.append(
            Start(job_id=f"job_{numbers[owner]:04}", owner_id=owner, priority=1, seconds=2.0 * place,
                  where="gpu-1 is free in about 3 s")
        )  # fmt: skip
    return Forecast(at=NOW, starts=tuple(starts), **({"workers": 1, "pace": 2.0} | values))


def waits(**counts: int) -> list[OpenTally]:
    return [OpenTally(owner, 1, "queued", count) for owner, count in counts.items()]


def told(front: Front, item: Job, viewer: str = "ann", **values: Any) -> Told:
    return front.tell(item, viewer, **({"known": True, "paused": None, "place": None, "own": 0} | values))


def test_what_the_leader_sees_is_told_as_it_foresees_it() -> None:
    front = Front(forecast("ann", "bob", "ann"), waits(ann=2, bob=1))
    second = told(front, job(2), place=2)
    assert (second.position, second.start) == (2, NOW + timedelta(seconds=4))
    assert second.because == "behind 2 jobs, 1 of them yours; gpu-1 is free in about 3 s"
    assert told(front, job(2), viewer="bob", place=2).because == "behind 2 jobs; gpu-1 is free in about 3 s"
    assert told(front, job(1), place=0).because == "gpu-1 is free in about 3 s"


def test_beyond_sight_the_shares_of_others_are_counted_in() -> None:
    """Ann's tenth unseen job: nine of hers and as many of bob's go before it, but all of carl's three."""
    front = Front(forecast("ann", "bob", "carl"), waits(ann=500, bob=500, carl=4))
    found = told(front, job(11), own=10)
    # the last of hers in sight has place 0; then 9 of hers, 10 of bob's (his turn comes after hers) less one, 3 of carl's
    assert found.position == 1 + 9 + 9 + 3
    assert found.because == "behind 22 jobs, 10 of them yours; about 30 start a minute"
    assert found.start is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.start < found.high
    weighted = Front(forecast("ann", "bob", "carl", weights={"bob": 2.0}), waits(ann=500, bob=500, carl=4))
    assert told(weighted, job(11), own=10).position == 1 + 9 + 18 + 3


def test_a_more_urgent_job_stands_before_what_the_leader_has_not_seen_of_less_urgent_ones() -> None:
    front = Front(forecast("bob", "bob"), waits(bob=500))
    assert told(front, job(7, priority=0)).position == 0
    assert told(front, job(7, priority=2)).position == 500


@given(
    st.lists(st.sampled_from(["ann", "bob", "carl"]), max_size=12),
    st.fixed_dictionaries({name: st.integers(0, 40) for name in ("ann", "bob", "carl")}),
)
def test_places_grow_along_each_line_and_never_stand_before_those_in_sight(
    owners: list[str], beyond: dict[str, int]
) -> None:
    seen = {name: owners.count(name) for name in beyond}
    front = Front(forecast(*owners), waits(**{name: seen[name] + more for name, more in beyond.items()}))
    for name, more in beyond.items():
        last = max((place for place, owner in enumerate(owners) if owner == name), default=-1)
        places, starts = [], []
        for number in range(more):
            found = told(front, job(seen[name] + number + 1, name), own=seen[name] + number)
            places.append(found.position)
            starts.append(found.start)
            assert found.because
        assert places == sorted(set(places))
        assert all(place > last for place in places)
        assert all(a is not None and b is not None and a <= b for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("values", "given_", "words", "starts"),
    [
        ({}, {"known": False}, "no scheduler has looked at the queue yet", False),
        ({"age": 300.0}, {}, "no scheduler has looked at the queue for 5 min", False),
        ({"workers": 0}, {}, NOBODY, False),
        ({}, {"paused": "the queue is paused by an operator"}, "the queue is paused", False),
        ({"held": {"job_0009": "no worker that is up has the tag a100"}}, {}, "the tag a100", False),
        ({"limited": {"ann": 7.0}}, {}, LIMITED, True),
        ({}, {}, "behind 2 jobs; about 30 start a minute", True),
        ({"pace": 0.0}, {}, "the scheduler has not seen it yet", True),
    ],
)
def test_there_is_a_reason_for_everything(
    values: dict[str, Any], given_: dict[str, Any], words: str, starts: bool
) -> None:
    found = told(Front(forecast("bob", "bob", **values), waits(bob=2, ann=1)), job(9, priority=2), **given_)
    assert words in found.because
    assert (found.start is not None) == starts
    assert found.position == 2


def test_a_job_that_was_put_off_says_until_when_and_why() -> None:
    front = Front(forecast("bob", age=10.0), waits(ann=1, bob=1))
    later = NOW + timedelta(seconds=50)
    found = told(front, job(9, not_before=later, wait_reason="the store does not answer"))
    assert found.because == "tried again in about 40 s, after a passing error: the store does not answer"
    assert (found.start, found.low) == (later, later)
    assert "tried again" not in told(front, job(9, not_before=NOW + timedelta(seconds=5))).because


def test_bars_of_short_waits_are_their_own() -> None:
    pairs = [(1.0, 1.0 + n % 10) for n in range(100)] + [(100.0, 100.0 + n % 10) for n in range(100)]
    bars = bars_of(pairs)
    assert len(bars) == 3
    assert bar_of(bars, 0.2).high > 5
    assert bar_of(bars, 1e6).high < 1.2
    assert bar_of(bars, 1e6) == Bar(float("inf"), *bars[-1][1:])
