"""Which worker is told to have which waiting job's files early, and what workers are chosen by."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.scheduler.ahead import HORIZON_SECONDS, Replica, orders
from farm.scheduler.facts import Plan, Snapshot
from farm.scheduler.group import Need, WaitingJob, gather
from farm.scheduler.lanes import WorkerView
from farm.scheduler.plan import PATIENCE_SECONDS, plan
from farm.scheduler.score import DISPLACE_WEIGHT, FETCH_WEIGHT, Rates
from farm.scheduler.share import Ledger

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
#: 10 s a job, a fetch of an adapter is 1 s
RATES = Rates(
    seconds_per_step={"m": 1.0, "n": 1.0}, load_seconds={"m": 5.0, "n": 5.0}, fetch_bytes_per_second=1e6
)
INK = Need(model_key="m", model_bytes=1, adapters=(("ink", 1_000_000),))


def job(number: int, need: Need = INK, *, age: float = 0.0, priority: int = 1) -> WaitingJob:
    return WaitingJob(
        id=f"job_{number:03}", attempt=0, owner_id="a", priority=priority,
        created_at=NOW - timedelta(seconds=age), need=need, batch_key=need.model_key, steps=10, count=1,
    )  # fmt: skip


def worker(
    number: int, *, slots: int = 0, busy: float = 20.0, model: str | None = "m", memory: tuple[str, ...] = (),
    disk: tuple[str, ...] = (), tags: tuple[str, ...] = (),
) -> WorkerView:  # fmt: skip
    return WorkerView(
        id=f"w{number}", name=f"gpu-{number}", free_slots=slots, busy_seconds=busy, model_key=model,
        adapters=frozenset(memory), disk=frozenset(("m", "n", *memory, *disk)), rates=RATES, tags=frozenset(tags),
    )  # fmt: skip


def decide(jobs: list[WaitingJob], workers: list[WorkerView], **more: object) -> Plan:
    snapshot = Snapshot(groups=gather(jobs), workers=tuple(workers), foresee=0)
    return plan(replace(snapshot, **more), NOW)


def test_an_adapter_with_a_long_queue_is_told_to_as_many_more_workers_as_it_keeps_busy() -> None:
    fleet = [worker(1, memory=("ink",)), *(worker(number) for number in range(2, 9))]
    # 10 s of the horizon are left on the worker that holds it: 12 jobs of 10 s leave 110 s for others
    made = decide([job(number) for number in range(12)], fleet)
    assert len(made.prefetch) == math.ceil(110 / HORIZON_SECONDS) == 4
    assert "w1" not in made.prefetch
    assert set(made.prefetch.values()) == {"job_000"}


def test_a_short_queue_is_told_to_nobody() -> None:
    fleet = [worker(1, memory=("ink",), busy=5), worker(2, busy=5)]
    assert decide([job(1), job(2)], fleet).prefetch == {}
    # nor is the queue of an adapter that all hold already
    assert (
        decide([job(n) for n in range(50)], [worker(1, memory=("ink",)), worker(2, disk=("ink",))]).prefetch
        == {}
    )


def test_who_was_told_is_told_again_and_others_are_not() -> None:
    fleet = [worker(1, memory=("ink",)), worker(2, busy=25), *(worker(number) for number in range(3, 6))]
    waiting = [job(number) for number in range(4)]
    ledger = Ledger(ahead={"w2": "ink"})
    made = decide(waiting, fleet, ledger=ledger)
    assert made.prefetch == {"w2": "job_000"}
    assert made.ledger.ahead == {"w2": "ink"}
    # the fetch has come and it is free: the queue justifies no further copy
    fleet[1] = replace(fleet[1], busy_seconds=0.0, disk=frozenset(("m", "ink")))
    assert decide(waiting, fleet, ledger=ledger).prefetch == {}


ADAPTERS = ("a", "b", "c")
NEEDS = [
    Need(
        model_key=model, model_bytes=1, adapters=tuple((sha, 1_000_000) for sha in shas), tags=frozenset(tags)
    )
    for model in "mn"
    for shas in ((), ("a",), ("b",), ("a", "c"))
    for tags in ((), ("studio",))
]
FLEETS = st.lists(
    st.tuples(
        st.integers(0, 2), st.floats(0, 60), st.sampled_from(["m", "n", None]), st.sets(st.sampled_from(ADAPTERS)),
        st.sampled_from([(), ("studio",)]),
    ),
    max_size=6,
)  # fmt: skip


@given(
    waiting=st.lists(st.tuples(st.sampled_from(NEEDS), st.integers(0, 2)), max_size=40),
    fleet=FLEETS,
    foresee=st.sampled_from([0, 1000]),
)
def test_only_waiting_jobs_are_told_to_workers_that_suit_and_no_more_than_wait(
    waiting: list[tuple[Need, int]],
    fleet: list[tuple[int, float, str | None, set[str], tuple[str, ...]]],
    foresee: int,
) -> None:
    jobs = {
        item.id: item
        for item in (job(number, need, priority=rank) for number, (need, rank) in enumerate(waiting))
    }
    views = {
        view.id: view
        for view in (
            worker(number, slots=slots, busy=busy, model=model, memory=tuple(memory), tags=tags)
            for number, (slots, busy, model, memory, tags) in enumerate(fleet)
        )
    }
    made = decide(list(jobs.values()), list(views.values()), foresee=foresee)
    given = {item.job_id for item in made.assignments}
    for worker_id, job_id in made.prefetch.items():
        assert job_id not in given
        assert views[worker_id].suits(jobs[job_id].need)
    if not foresee:
        for worker_id, sha in made.ledger.ahead.items():
            wanting = [
                item for item in jobs.values() if item.id not in given and sha in dict(item.need.adapters)
            ]
            assert sha not in views[worker_id].disk
            assert list(made.ledger.ahead.values()).count(sha) <= len(wanting)


def test_a_worker_hears_of_its_next_job_first_and_of_an_adapter_in_demand_when_that_lacks_nothing() -> None:
    more = {name: Replica(sha="ink", job_id="many") for name in ("w1", "w2", "w4")}
    nexts = [("w1", "cold", True), ("w1", "later", True), ("w2", "hot", False), ("w3", "hot-too", False)]
    assert orders(nexts, more) == {"w1": "cold", "w2": "many", "w3": "hot-too", "w4": "many"}


def chosen(need: Need, workers: list[WorkerView], age: float = 0.0) -> str | None:
    made = decide([job(1, need, age=age)], workers)
    return made.assignments[0].worker_id if made.assignments else None


def test_a_busy_fleet_prefers_who_has_the_adapter_on_disk_and_an_idle_one_who_starts_soonest() -> None:
    holds = worker(1, slots=1, busy=3.0, disk=("ink",))
    assert chosen(INK, [holds, worker(2, slots=1, busy=0.1)]) == "w1"
    idle = [worker(number, slots=1, busy=0.0) for number in range(20, 40)]
    assert chosen(INK, [holds, *idle]) == "w20"
    # the price has an end: so much later is not worth the bytes
    holds = replace(holds, busy_seconds=1.1 + FETCH_WEIGHT + 1)
    assert chosen(INK, [holds, worker(2, slots=1, busy=0.1)]) == "w2"


def test_in_a_busy_fleet_a_model_is_displaced_only_for_what_that_costs_others() -> None:
    other = Need(model_key="n", model_bytes=1)
    later = DISPLACE_WEIGHT * 5.0 + 5.0 - 1
    fleet = [worker(1, slots=1, busy=0.1), worker(2, slots=1, busy=later, model="n")]
    assert chosen(other, fleet) == "w2"
    # an empty worker displaces nothing
    assert chosen(other, [replace(fleet[0], model_key=None), fleet[1]]) == "w1"


@given(st.floats(PATIENCE_SECONDS, 5000), FLEETS)
def test_a_job_that_waited_for_its_patience_takes_the_first_room_whatever_it_costs(
    age: float, fleet: list[tuple[int, float, str | None, set[str], tuple[str, ...]]]
) -> None:
    views = [
        worker(number, slots=slots, busy=busy, model=model, memory=tuple(memory))
        for number, (slots, busy, model, memory, _) in enumerate(fleet)
    ]
    if any(view.free_slots for view in views):
        assert chosen(NEEDS[6], views, age) is not None


def test_who_holds_an_adapter_on_disk_is_found_among_many() -> None:
    """It is neither among the soonest free ones nor among those with the model."""
    fleet = [worker(number, slots=1, busy=5.0, model="n") for number in range(40)]
    fleet[33] = replace(fleet[33], busy_seconds=5.5, disk=frozenset(("m", "n", "ink")))
    assert chosen(INK, fleet) == "w33"


@pytest.mark.parametrize("jobs", [0, 1])
def test_nothing_is_told_without_a_queue_or_without_workers(jobs: int) -> None:
    waiting = [job(number) for number in range(jobs)]
    assert decide(waiting, []).prefetch == {}
    assert decide([], [worker(1)]).prefetch == {}
