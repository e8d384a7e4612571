"""Laws of the simulator, whatever the trace: each job ends once, one job at a time, a worker that is down does nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.errors import BadRequest
from farm.jobs.states import PRIORITY_NAMES
from farm.scheduler.simulate.bound import bound
from farm.scheduler.simulate.policies import POLICIES
from farm.scheduler.simulate.recorded import failure_line, farm_line, job_line, model_line, read_trace
from farm.scheduler.simulate.run import run
from farm.scheduler.simulate.trace import Trace

SIZES = {"ink": 10, "oil": 2_000_000_000, "wash": 300_000_000}
JOBS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.integers(0, 300_000).map(lambda value: value / 1000),
            "model": st.sampled_from(["sdxl", "own"]),
            "batch": st.sampled_from(["", "large"]),
            "adapters": st.lists(st.sampled_from(sorted(SIZES)), max_size=3, unique=True),
            "owner": st.sampled_from(["ann", "bob"]),
            "steps": st.integers(1, 60),
            "priority": st.sampled_from(sorted(PRIORITY_NAMES.values())),
        }
    ),
    min_size=1,
    max_size=25,
)
FAILURES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.integers(1, 100)), max_size=5)


def written(jobs: list[dict[str, Any]], failures: list[tuple[int, int, int]], workers: int) -> list[str]:
    return [
        farm_line(workers),
        model_line("own", "large", size=5, load_seconds=1.5, step_seconds=0.75),
        *[failure_line(*failure) for failure in failures],
        *[job_line(**{**job, "adapters": [(name, SIZES[name]) for name in job["adapters"]]}) for job in jobs],
    ]


def clean(value: Any) -> Any:
    return {name: getattr(value, name) for name in value.__slots__ if name != "decisions_per_s"}


@settings(max_examples=40, deadline=None)
@given(JOBS, FAILURES, st.integers(1, 4), st.sampled_from(sorted(POLICIES)))
def test_every_job_ends_once_and_no_worker_does_two_at_a_time(
    jobs: list[dict[str, Any]], failures: list[tuple[int, int, int]], workers: int, policy: str
) -> None:
    trace = read_trace("t", written(jobs, failures, workers))
    ended: list[tuple[int, int, float, float]] = []
    found = run(trace, workers, policy, 1, lambda: 0.0, note=lambda *item: ended.append(item))
    assert Counter(job for job, *_ in ended) == Counter(range(len(trace)))
    by_worker = defaultdict(list)
    for job, worker, begin, end in ended:
        ask = trace.asks[job]
        assert begin >= ask.at
        assert end == pytest.approx(begin + ask.seconds)
        by_worker[worker].append((begin, end))
    for worker, times in by_worker.items():
        times.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
        for failure in trace.failures:
            if failure.worker == worker:
                back = failure.at + failure.seconds
                assert not any(begin < back and end > failure.at for begin, end in times)
    least = bound(trace, workers)
    assert found.makespan_s >= least.makespan_s - 1e-6
    assert found.hit_rate <= least.hit_rate
    again = run(trace, workers, policy, 1, lambda: 0.0)
    assert clean(again) == clean(found)


@settings(max_examples=60, deadline=None)
@given(JOBS, FAILURES, st.integers(1, 4))
def test_a_trace_is_read_as_it_was_written(
    jobs: list[dict[str, Any]], failures: list[tuple[int, int, int]], workers: int
) -> None:
    trace = read_trace("t", written(jobs, failures, workers))
    assert trace.workers == workers
    assert [(item.at, item.worker, item.seconds) for item in trace.failures] == [
        (at, worker, seconds) for at, worker, seconds in sorted(failures, key=lambda item: item[:2])
    ]
    asks = list(trace.asks)
    for ask, job in zip(asks, sorted(jobs, key=lambda job: job["at"]), strict=True):
        assert ask.at == job["at"]
        need = ask.key.need
        assert need.model_key == job["model"]
        assert dict(need.adapters) == {name: SIZES[name] for name in job["adapters"]}
        assert (ask.key.owner_id, PRIORITY_NAMES[ask.key.priority]) == (job["owner"], job["priority"])
        step = 0.75 if (job["model"], job["batch"]) == ("own", "large") else 0.25
        assert ask.steps == job["steps"]
        assert ask.seconds == pytest.approx(step * job["steps"])
        assert ask.key.batch_key == (job["batch"] or job["model"])
    _assert_columns_fit(trace)


def _assert_columns_fit(trace: Trace) -> None:
    assert trace.offsets[-1] == len(trace.wanted)
    assert trace.seconds().tolist() == pytest.approx([ask.seconds for ask in trace.asks])


def test_a_short_line_is_enough_and_a_bad_one_is_named() -> None:
    trace = read_trace(
        "night", ['{"at": 2, "model": "sdxl"}', "", '{"at": 1, "model": "own", "adapters": ["ink"]}']
    )
    assert [ask.at for ask in trace.asks] == [1.0, 2.0]
    assert trace.asks[0].key.need.adapters == (("ink", 100_000_000),)
    good = '{"at": 2, "model": "sdxl", "adapters": [{"name": "ink", "bytes": 1}]}'
    for bad, said in (
        ('{"at": 1}', "'model' is missing or unknown"),
        ('{"at": 1, "model": "m", "priority": "urgent"}', "'urgent' is missing or unknown"),
        ('{"at": 1, "model": "m", "steps": 0}', "steps is 0, not above 0"),
        (
            '{"at": 1, "model": "m", "adapters": [{"name": "ink", "bytes": 2}]}',
            "'ink' has 2 bytes here and 1 above",
        ),
        ('{"kind": "farm", "version": 9, "workers": 1}', "version 9 is not 1"),
        ('{"kind": "weather"}', "kind is 'weather'"),
        ('{"at": -1, "model": "m"}', "at is -1.0"),
        ("[1]", "object has no attribute"),
    ):
        with pytest.raises(
            BadRequest, match=f"line 2 of the trace night is not a job, a model or a failure: .*{said}"
        ):
            read_trace("night", [good, bad])
    with pytest.raises(BadRequest, match="has no jobs"):
        read_trace("night", [])
