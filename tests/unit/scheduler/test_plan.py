"""Properties and examples of the pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from farm.jobs.rates import Rates
from farm.scheduler.facts import Assignment, Outlook, Snapshot
from farm.scheduler.group import Need, WaitingJob, gather
from farm.scheduler.lanes import WorkerView
from farm.scheduler.plan import plan
from farm.scheduler.reasons import why_waiting

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
INK = Need(model_key="demo", model_bytes=10_000_000, adapters=(("ink", 1_000_000),))
OTHER = Need(model_key="sdxl", model_bytes=7_000_000_000)


def job(number: int, need: Need = INK, *, priority: int = 1, age: float = 0, steps: int = 20) -> WaitingJob:
    return WaitingJob(
        id=f"job_{number:03}",
        attempt=0,
        owner_id="usr_a",
        priority=priority,
        created_at=NOW - timedelta(seconds=age),
        need=need,
        batch_key=need.model_key,
        steps=steps,
        count=1,
    )


def worker(
    name: str, *, slots: int = 2, busy: float = 0, model: str | None = None, adapters: tuple[str, ...] = ()
) -> WorkerView:
    return WorkerView(
        id=f"wrk_{name}",
        name=name,
        free_slots=slots,
        busy_seconds=busy,
        model_key=model,
        adapters=frozenset(adapters),
        rates=Rates(seconds_per_step={"demo": 0.1, "sdxl": 1.0}),
    )


def decided(
    jobs: Sequence[WaitingJob], workers: Sequence[WorkerView]
) -> tuple[list[Assignment], list[Outlook]]:
    made = plan(Snapshot(groups=gather(jobs), workers=tuple(workers)), NOW)
    return made.assignments, made.outlooks


def chosen(jobs: list[WaitingJob], workers: list[WorkerView]) -> dict[str, str]:
    assignments, _ = decided(jobs, workers)
    return {item.job_id: item.worker_id for item in assignments}


def test_a_job_goes_to_the_worker_that_holds_its_model_and_adapters() -> None:
    workers = [worker("cold"), worker("model", model="demo"), worker("hot", model="demo", adapters=("ink",))]
    assert chosen([job(1)], workers) == {"job_001": "wrk_hot"}


def test_a_free_worker_is_taken_when_it_would_be_sooner() -> None:
    workers = [worker("hot", busy=60, model="demo", adapters=("ink",)), worker("cold")]
    assert chosen([job(1)], workers) == {"job_001": "wrk_cold"}


def test_a_job_waits_for_a_full_worker_that_is_sooner_than_loading_elsewhere() -> None:
    workers = [worker("hot", slots=0, busy=2, model="sdxl"), worker("cold")]
    assignments, outlooks = decided([job(1, OTHER)], workers)
    assert assignments == []
    assert outlooks[0].worker is not None
    assert outlooks[0].worker.name == "hot"
    assert outlooks[0].seconds == 2


def test_hot_work_passes_older_cold_work_but_only_by_the_cost_of_the_start() -> None:
    only = [worker("gpu", slots=1, model="demo", adapters=("ink",))]
    cost_of_sdxl = 7e9 / 100e6 + 1 + 7e9 / 500e6
    assert chosen([job(1, OTHER, age=10), job(2, INK)], only) == {"job_002": "wrk_gpu"}
    assert chosen([job(1, OTHER, age=cost_of_sdxl + 10), job(2, INK)], only) == {"job_001": "wrk_gpu"}


def test_priority_comes_before_everything() -> None:
    only = [worker("gpu", slots=1, model="demo", adapters=("ink",))]
    jobs = [job(1, INK, priority=2, age=1000), job(2, OTHER, priority=0)]
    assert chosen(jobs, only) == {"job_002": "wrk_gpu"}


def test_without_workers_the_reason_says_how_to_start_one() -> None:
    _, outlooks = decided([job(1)], [])
    assert why_waiting(job(1).need, outlooks[0]) == "no worker is up; start one with `farm worker`"


def test_the_reason_names_the_worker_what_it_holds_and_when() -> None:
    full = worker("gpu-2", slots=0, busy=20, model="demo")
    _, outlooks = decided([job(1)], [full])
    assert (
        why_waiting(job(1).need, outlooks[0])
        == "gpu-2 is free in about 20 s and has the model, not the adapter"
    )


NEEDS = [INK, OTHER, Need(model_key="demo", model_bytes=10_000_000)]


@given(
    waiting=st.lists(
        st.tuples(st.sampled_from(NEEDS), st.integers(0, 2), st.floats(0, 5000), st.integers(1, 50)),
        max_size=30,
    ),
    slots=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 500), st.sampled_from(["demo", "sdxl", None])), max_size=6
    ),
)
def test_no_job_twice_no_window_overrun_and_nothing_forgotten(
    waiting: list[tuple[Need, int, float, int]], slots: list[tuple[int, float, str | None]]
) -> None:
    jobs = tuple(
        job(number, need, priority=priority, age=age, steps=steps)
        for number, (need, priority, age, steps) in enumerate(waiting)
    )
    workers = tuple(
        worker(f"w{number}", slots=free, busy=busy, model=model)
        for number, (free, busy, model) in enumerate(slots)
    )
    assignments, outlooks = decided(jobs, workers)
    assert sorted([a.job_id for a in assignments] + [o.job_id for o in outlooks]) == [j.id for j in jobs]
    for view in workers:
        assert sum(a.worker_id == view.id for a in assignments) <= view.free_slots
    if workers and jobs and all(view.free_slots > 0 and view.busy_seconds == 0 for view in workers):
        assert assignments


@given(st.lists(st.sampled_from(NEEDS), min_size=2, max_size=40))
def test_the_oldest_job_is_passed_over_only_within_the_bound(stream: list[Need]) -> None:
    """Newer hot work keeps coming; a cold job still starts once it has waited for the cost of its start."""
    bound = 7e9 / 100e6 + 1 + 7e9 / 500e6
    old = job(0, OTHER, age=bound + 1)
    newer = [job(number + 1, need) for number, need in enumerate(stream)]
    assert "job_000" in chosen([*newer, old], [worker("gpu", slots=1, model="demo", adapters=("ink",))])
