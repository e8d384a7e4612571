"""The simulator: repeatable, complete, bounded by its bound, and the plan beats its peers there."""

from __future__ import annotations

import json
from itertools import count

import pytest

from farm.cli import simulate
from farm.cli.main import run as farm
from farm.errors import BadRequest
from farm.scheduler.simulate.bound import bound
from farm.scheduler.simulate.plot import draw
from farm.scheduler.simulate.policies import POLICIES
from farm.scheduler.simulate.run import run
from farm.scheduler.simulate.trace import RECIPES, make_trace, read_trace

KEYS = {
    "hit_rate", "makespan_s", "wait_p50_s", "wait_p95_s", "wait_p99_s", "jain", "bytes_fetched", "decisions_per_s",
}  # fmt: skip


def ticking() -> float:
    return float(next(_ticks))


_ticks = count()


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_beats_the_bound_and_a_seed_gives_the_same_figures(policy: str) -> None:
    trace = make_trace("mixed", workers=5, jobs=150, seed=3)
    limit = bound(trace, 5)
    found = run(trace, 5, policy, 3, ticking)
    assert found.makespan_s >= limit.makespan_s
    assert found.hit_rate <= limit.hit_rate
    assert found.bytes_fetched >= limit.bytes_fetched
    assert 0 < found.jain <= 1
    again = run(trace, 5, policy, 3, ticking)
    assert (again.makespan_s, again.wait_p99_s, again.hit_rate) == (
        found.makespan_s, found.wait_p99_s, found.hit_rate,
    )  # fmt: skip


def test_the_plan_finds_more_adapters_hot_and_is_done_sooner_than_first_come() -> None:
    trace = make_trace("burst", workers=20, jobs=600, seed=1)
    ours, first_come = run(trace, 20, "farm", 1, ticking), run(trace, 20, "fifo", 1, ticking)
    assert ours.hit_rate > 1.3 * first_come.hit_rate
    assert ours.bytes_fetched < first_come.bytes_fetched
    assert ours.makespan_s <= first_come.makespan_s
    assert ours.wait_p95_s < first_come.wait_p95_s


def test_failures_lose_no_job() -> None:
    trace = make_trace("mixed", workers=4, jobs=120, seed=5)
    often = tuple((at, number % 4) for number, at in enumerate(range(5, 60, 5)))
    broken = type(trace)(name="broken", asks=trace.asks, failures=tuple((float(at), w) for at, w in often))
    for policy in POLICIES:
        assert run(broken, 4, policy, 1, ticking).makespan_s > 0


def test_a_recorded_trace_is_read_and_a_bad_line_is_named() -> None:
    trace = read_trace(
        "night", ['{"at": 2, "model": "sdxl"}', "", '{"at": 1, "model": "own", "adapters": ["ink"]}']
    )
    assert [ask.at for ask in trace.asks] == [1.0, 2.0]
    assert trace.asks[0].key.need.adapters == (("ink", 100_000_000),)
    with pytest.raises(BadRequest, match="line 2 of the trace night is not a job"):
        read_trace("night", ['{"at": 2, "model": "sdxl"}', '{"at": 1}'])
    with pytest.raises(BadRequest, match="has no jobs"):
        read_trace("night", [])
    with pytest.raises(BadRequest, match="unknown trace 'none'"):
        make_trace("none", workers=1, jobs=1, seed=1)


def test_the_command_prints_the_contracts_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert farm(["simulate", "--workers", "3", "--jobs", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["policies"]
    assert list(found) == ["farm", "fifo", "random", "bound"]
    assert all(set(value) == KEYS for value in found.values())
    assert farm(["simulate", "--policy", "luck"]) == 2


def test_the_command_names_every_policy_and_trace() -> None:
    assert (*POLICIES, "bound") == simulate.NAMES
    assert tuple(RECIPES) == simulate.TRACES


def test_the_plot_has_a_bar_for_each_figure_and_policy() -> None:
    trace = make_trace("zipf", workers=2, jobs=20, seed=1)
    picture = draw("<trace>", {"farm": run(trace, 2, "farm", 1, ticking), "bound": bound(trace, 2)})
    assert picture.startswith("<svg")
    assert "&lt;trace&gt;" in picture
    assert picture.count("<rect") == 1 + 7 * 2
