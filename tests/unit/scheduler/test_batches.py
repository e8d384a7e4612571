"""Jobs that can join what runs on a worker go there beyond its window; nobody else does, and nobody starves for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.scheduler.batches import Batch, Boarding, Rider, batch_of
from farm.scheduler.facts import Snapshot
from farm.scheduler.group import WaitingJob, gather
from farm.scheduler.lanes import WorkerView
from farm.scheduler.plan import plan
from farm.scheduler.share import Ledger
from tests.unit.scheduler.test_plan_laws import NOW, PLAIN, job, worker

SIZES = {"m": 4, "n": 4}


def rider(number: int, key: str = "m", **fields: float) -> WaitingJob:
    return replace(job(number, **fields), batch_key=key)  # type: ignore[arg-type]


def running(seats: int, *, slots: int = 1, busy: float = 20.0, number: int = 1) -> WorkerView:
    """A worker on which a batch of key m runs."""
    batch = Batch(key=(PLAIN.model_key, "m"), seats=seats, aboard=1)
    return replace(worker(number, slots=slots, busy=busy), batch=batch, batch_sizes=SIZES)


def given_to(jobs: list[WaitingJob], *workers: WorkerView) -> Counter[tuple[str, str]]:
    """How many jobs of each batch key went where."""
    keys = {item.id: item.batch_key for item in jobs}
    made = plan(Snapshot(groups=gather(jobs), workers=workers), NOW)
    return Counter((item.worker_id, keys[item.job_id]) for item in made.assignments)


def test_a_batch_takes_one_place_whoever_is_in_it() -> None:
    one, two = Rider(key=("m", "k"), pictures=1), Rider(key=("m", "k"), pictures=2)
    other, lost = Rider(key=("m", "l"), pictures=1), replace(one, lost_before=True)
    sizes = {"k": 4}
    assert batch_of([], sizes) == Batch()
    assert batch_of([one] * 3, sizes) == Batch(key=("m", "k"), seats=1, aboard=3)
    assert batch_of([two], sizes) == Batch(key=("m", "k"), seats=1, aboard=1)
    assert batch_of([one] * 6, sizes) == Batch(key=("m", "k"), seats=0, aboard=4)
    assert batch_of([one, other], sizes) == Batch(key=("m", "k"), seats=0, aboard=1)
    assert batch_of([lost], sizes) == Batch(key=("m", "k"), seats=0, aboard=1)
    assert batch_of([one, lost], sizes) == Batch(key=("m", "k"), seats=0, aboard=1)
    assert batch_of([other] * 2, sizes) == Batch(key=("m", "l"), seats=0, aboard=1)


def test_seats_are_taken_by_jobs_of_the_batch_until_something_else_waits() -> None:
    boarding = Boarding(Batch(), SIZES)
    assert [boarding.give(("m", "m")) for _ in range(5)] == [False, True, True, True, False]
    boarding = Boarding(Batch(key=("m", "m"), seats=2, aboard=1), SIZES)
    assert [boarding.give(key) for key in (("m", "m"), ("m", "n"), ("m", "m"))] == [True, False, False]


def test_jobs_of_the_batch_fill_it_beyond_the_window() -> None:
    assert given_to([rider(n) for n in range(9)], running(3)) == {("w1", "m"): 4}
    assert given_to([rider(n) for n in range(9)], running(3, slots=0)) == {("w1", "m"): 3}
    # from the first job on, in the round that gives it
    idle = replace(worker(1, slots=2), batch_sizes=SIZES)
    assert given_to([rider(n) for n in range(9)], idle) == {("w1", "m"): 5}


def test_jobs_of_another_key_see_the_window_alone() -> None:
    assert given_to([rider(n, "n") for n in range(9)], running(3)) == {("w1", "n"): 1}
    assert given_to([rider(n, "n") for n in range(9)], running(3, slots=0)) == {}
    assert given_to([rider(n) for n in range(9)], worker(1, slots=2)) == {("w1", "m"): 2}


def test_a_free_worker_is_sooner_than_a_seat() -> None:
    idle = worker(2, slots=1)
    assert given_to([rider(1)], running(3), idle) == {("w2", "m"): 1}


def test_jobs_of_the_batch_go_before_older_ones_that_would_wait_for_it() -> None:
    older = rider(1, "n", age=5)
    assert given_to([older, *(rider(n) for n in range(2, 5))], running(3)) == {("w1", "m"): 3, ("w1", "n"): 1}
    # but not before those that have waited longer than the batch lasts
    old = rider(1, "n", age=60)
    assert given_to([old, *(rider(n) for n in range(2, 5))], running(3)) == {("w1", "n"): 1}


def test_a_more_urgent_job_closes_the_batch() -> None:
    urgent = rider(1, "n", priority=0)
    assert given_to([urgent, *(rider(n) for n in range(2, 5))], running(3)) == {("w1", "n"): 1}


def test_what_cannot_join_does_not_starve() -> None:
    """However many riders come, a job of another key gets its turn."""
    now, ledger, other = NOW, Ledger(), rider(1, "n", age=0)
    number = 10
    for _ in range(40):
        riders = [replace(rider(n), created_at=now) for n in range(number, number + 4)]
        number += 4
        made = plan(
            Snapshot(groups=gather([other, *riders]), workers=(running(3, busy=300.0),), ledger=ledger), now
        )
        if any(item.job_id == other.id for item in made.assignments):
            return
        ledger, now = made.ledger, now + timedelta(seconds=5)
    pytest.fail("a job of another key waited for 200 seconds")


@given(
    keys=st.lists(st.sampled_from("mn"), max_size=20), ages=st.lists(st.integers(0, 400), min_size=20, max_size=20),
    seats=st.integers(0, 4), slots=st.integers(0, 3),
)  # fmt: skip
def test_seats_are_for_the_batch_and_places_for_everybody(
    keys: list[str], ages: list[int], seats: int, slots: int
) -> None:
    jobs = [rider(n, key, age=age) for n, (key, age) in enumerate(zip(keys, ages, strict=False))]
    found = given_to(jobs, running(seats, slots=slots))
    assert found[("w1", "n")] <= slots
    assert found.total() <= slots + seats
    if set(keys) == {"m"}:
        assert found.total() == min(len(keys), slots + seats)
