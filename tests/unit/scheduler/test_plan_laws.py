"""Laws of the plan over many rounds: shares, starvation, pins, pauses, limits, and what a round costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.jobs.rates import Rates
from farm.scheduler.facts import Plan, Snapshot
from farm.scheduler.group import Need, WaitingJob, gather
from farm.scheduler.lanes import WorkerView
from farm.scheduler.pauses import Pause
from farm.scheduler.plan import plan
from farm.scheduler.reasons import why_waiting
from farm.scheduler.share import AGEING_SECONDS, QUANTUM_SECONDS, Ledger

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RATES = Rates(seconds_per_step={"m": 0.5, "n": 0.5}, load_seconds={"m": 5.0, "n": 5.0})
PLAIN = Need(model_key="m", model_bytes=1)


def job(
    number: int, *, owner: str = "a", need: Need = PLAIN, priority: int = 1, age: float = 0.0
) -> WaitingJob:
    return WaitingJob(
        id=f"job_{number:05}", attempt=0, owner_id=owner, priority=priority,
        created_at=NOW - timedelta(seconds=age), need=need, batch_key=need.model_key, steps=10, count=1,
    )  # fmt: skip


def worker(number: int, *, slots: int = 1, busy: float = 0.0, model: str | None = "m", memory: int = 0,
           tags: tuple[str, ...] = ()) -> WorkerView:  # fmt: skip
    return WorkerView(
        id=f"w{number}", name=f"gpu-{number}", free_slots=slots, busy_seconds=busy, model_key=model,
        disk=frozenset(("m", "n")), rates=RATES, memory_bytes=memory, tags=frozenset(tags),
    )  # fmt: skip


def decide(jobs: list[WaitingJob], workers: list[WorkerView], **more: object) -> Plan:
    return plan(replace(Snapshot(groups=gather(jobs), workers=tuple(workers)), **more), NOW)


def served(jobs: list[WaitingJob], rounds: int, weights: dict[str, float] | None = None) -> list[str]:
    """Owners in the order in which one worker with one slot a round takes their jobs."""
    ledger, order, left = Ledger(), [], list(jobs)
    for _ in range(rounds):
        made = decide(left, [worker(1)], ledger=ledger, weights=weights or {}, foresee=0)
        ledger = made.ledger
        given = {item.job_id for item in made.assignments}
        order += [item.owner_id for item in left if item.id in given]
        left = [item for item in left if item.id not in given]
    return order


@given(st.integers(1, 4), st.integers(1, 4))
def test_users_are_served_by_their_weights_within_a_quantum_and_a_job(first: int, second: int) -> None:
    jobs = [job(number, owner="ab"[number % 2]) for number in range(160)]
    weights = {"a": float(first), "b": float(second)}
    count = Counter(served(jobs, 70, weights))
    seconds = {owner: 5.0 * count[owner] / weight for owner, weight in weights.items()}
    assert abs(seconds["a"] - seconds["b"]) <= QUANTUM_SECONDS + 5.0


def test_one_user_with_very_many_jobs_does_not_delay_another() -> None:
    jobs = [job(number, age=100) for number in range(500)] + [
        job(900 + number, owner="b") for number in range(3)
    ]
    assert "b" in served(jobs, 1 + round(QUANTUM_SECONDS / 5.0) + 1)


def test_a_user_who_comes_back_cannot_have_saved_up() -> None:
    busy = [job(number) for number in range(40)]
    ledger = Ledger()
    for start in range(10):
        ledger = decide(busy[start:], [worker(1)], ledger=ledger).ledger
    assert ledger.floor >= 45
    both = busy[10:] + [job(100 + number, owner="b") for number in range(40)]
    order = []
    for _ in range(20):
        made = decide(both, [worker(1)], ledger=ledger)
        ledger = made.ledger
        given = {item.job_id for item in made.assignments}
        order += [item.owner_id for item in both if item.id in given]
        both = [item for item in both if item.id not in given]
    assert order.count("a") >= 10 - QUANTUM_SECONDS / 5.0


@given(st.lists(st.sampled_from([0, 1]), min_size=30, max_size=60))
def test_bulk_work_that_has_aged_is_not_starved_by_new_urgent_work(stream: list[int]) -> None:
    old = job(0, owner="b", priority=2, age=2 * AGEING_SECONDS + 60)
    ledger = Ledger()
    for number, priority in enumerate(stream, start=1):
        made = decide([job(number, priority=priority), old], [worker(1)], ledger=ledger)
        ledger = made.ledger
        if any(item.job_id == old.id for item in made.assignments):
            return
    pytest.fail("never started")


@given(st.integers(0, 3), st.integers(1, 6))
def test_an_old_backlog_shares_with_another_users_new_jobs(hours: int, every: int) -> None:
    """However old one's queue: who has had less of late, of the same class, does not wait until it is empty."""
    backlog = [
        replace(job(number, owner="a"), created_at=NOW - timedelta(hours=hours, seconds=200 - number))
        for number in range(200)
    ]
    fresh = [job(1000 + number, owner="b") for number in range(40)]
    order, ledger = [], Ledger()
    for number in range(60):
        waiting = backlog + fresh[: 1 + number // every]
        made = decide([item for item in waiting if item.id not in order], [worker(1)], ledger=ledger)
        ledger = made.ledger
        order += [item.job_id for item in made.assignments]
    given = [item for item in order if item in {other.id for other in fresh}]
    # one is there from the start: it goes before `a` has had a quantum more, and so does each that follows
    assert order.index(fresh[0].id) <= QUANTUM_SECONDS / 5.0 + 1
    assert len(given) >= min(1 + 59 // every, 30) - QUANTUM_SECONDS / 5.0 - 1


def test_a_cold_group_is_passed_over_a_bounded_number_of_times() -> None:
    """Clocks that stand still give no patience: the count of those who went before ends it."""
    cold = Need(model_key="n", model_bytes=1)
    ledger = Ledger()
    for number in range(1, 400):
        newer = [job(number * 10 + place) for place in range(4)]
        newer = [replace(item, created_at=NOW + timedelta(seconds=1)) for item in newer]
        made = decide([job(0, need=cold), *newer], [worker(1)], ledger=ledger)
        ledger = made.ledger
        if any(item.job_id == "job_00000" for item in made.assignments):
            assert number <= 100
            return
    pytest.fail("never started")


def test_pins_are_respected_and_a_pin_that_nobody_meets_is_told() -> None:
    large = replace(PLAIN, memory_bytes=24_000_000_000)
    tagged = replace(PLAIN, tags=frozenset(("studio",)))
    small = worker(1, slots=5, memory=8_000_000_000)
    made = decide([job(1, need=large), job(2, need=tagged), job(3)], [small])
    assert [item.job_id for item in made.assignments] == ["job_00003"]
    told = {item.job_id: why_waiting(large if "1" in item.job_id else tagged, item) for item in made.outlooks}
    assert told["job_00001"] == "no worker with 24 GB is up"
    assert told["job_00002"] == "no worker tagged studio is up"
    fits = worker(2, busy=50, memory=24_000_000_000, tags=("studio",), slots=5)
    made = decide([job(1, need=large), job(2, need=tagged)], [small, fits])
    assert {item.worker_id for item in made.assignments} == {"w2"}


@given(
    jobs=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("mn"), st.integers(0, 2)), max_size=25),
    paused=st.sampled_from(["queue", "model", "user"]),
    limit=st.integers(0, 3),
)
def test_pauses_and_limits_hold_and_every_job_is_given_or_explained(
    jobs: list[tuple[str, str, int]], paused: str, limit: int
) -> None:
    waiting = [
        job(number, owner=owner, need=Need(model_key=model, model_bytes=1), priority=priority)
        for number, (owner, model, priority) in enumerate(jobs)
    ]
    pause = Pause(kind=paused, subject={"queue": "", "model": "n", "user": "a"}[paused])  # type: ignore[arg-type]
    workers = [worker(1, slots=4), worker(2, slots=3, model="n")]
    made = decide(waiting, workers, pauses=(pause,), running_limit=limit, running={"b": 1})
    by_id = {item.id: item for item in waiting}
    given = [by_id[item.job_id] for item in made.assignments]
    for item in given:
        assert paused != "queue"
        assert paused != "model" or item.need.model_key != "n"
        assert paused != "user" or item.owner_id != "a"
    if limit:
        counts = Counter(item.owner_id for item in given) + Counter({"b": 1})
        assert max(counts.values()) <= limit
    assert sorted([item.id for item in given] + [item.job_id for item in made.outlooks]) == sorted(by_id)
    assert all(why_waiting(by_id[item.job_id].need, item) for item in made.outlooks)


def test_the_sentence_tells_own_jobs_from_others() -> None:
    waiting = [job(number) for number in range(3)] + [job(10, owner="b", age=-1)]
    made = decide(waiting, [worker(1, slots=0, busy=20)])
    said = {item.job_id: why_waiting(PLAIN, item) for item in made.outlooks}
    assert said["job_00000"] == "gpu-1 is free in about 20 s and has everything hot"
    assert said["job_00002"].startswith("behind 2 jobs of yours; gpu-1 is free")
    assert said["job_00010"].startswith("behind 3 jobs; gpu-1 is free")


def looked(jobs: int, groups: int, workers: int) -> int:
    waiting = [
        job(number, owner=f"u{number % 4}", need=replace(PLAIN, adapters=((f"x{number % groups}", 1),)))
        for number in range(jobs)
    ]
    return decide(waiting, [worker(n) for n in range(workers)], foresee=0).looked


def test_a_rounds_cost_grows_with_workers_and_not_with_jobs() -> None:
    few, many = looked(400, 20, 20), looked(8000, 20, 20)
    assert many <= 1.2 * few
    # no slot looks at more than a fixed number of groups and lanes
    assert looked(400, 20, 40) <= 2.5 * few
    assert looked(4000, 400, 20) <= 20 * 400
