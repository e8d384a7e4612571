"""The simulator: repeatable, complete, bounded by its bound, and the plan beats its peers there."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest

from farm.cli import simulate
from farm.cli.main import run as farm
from farm.scheduler.simulate.belady import belady, misses
from farm.scheduler.simulate.bound import bound
from farm.scheduler.simulate.made import RECIPES, make_trace
from farm.scheduler.simulate.plot import draw
from farm.scheduler.simulate.policies import POLICIES
from farm.scheduler.simulate.run import run
from farm.scheduler.simulate.trace import Failure

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
    often = tuple(Failure(at=float(at), worker=at // 5 % 4, seconds=60.0) for at in range(5, 60, 5))
    broken = replace(trace, failures=often)
    for policy in POLICIES:
        assert run(broken, 4, policy, 1, ticking).makespan_s > 0


def test_the_command_prints_the_contracts_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert farm(["simulate", "--workers", "3", "--jobs", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["policies"]
    assert list(found) == ["farm", "fifo", "random", "bound"]
    assert all(set(value) == KEYS for value in found.values())
    assert farm(["simulate", "--policy", "luck"]) == 2
    assert farm(["simulate", "--trace", "none"]) == 2


def test_the_command_names_every_policy_and_trace() -> None:
    assert {*POLICIES, "bound", "belady"} == {*simulate.NAMES, *simulate.MORE}
    assert tuple(RECIPES) == simulate.TRACES


def test_the_plot_has_a_bar_for_each_figure_and_policy() -> None:
    trace = make_trace("zipf", workers=2, jobs=20, seed=1)
    picture = draw("<trace>", {"farm": run(trace, 2, "farm", 1, ticking), "bound": bound(trace, 2)})
    assert picture.startswith("<svg")
    assert "&lt;trace&gt;" in picture
    assert picture.count("<rect") == 1 + 7 * 2


def test_caches_that_know_the_future_miss_least() -> None:
    """A cache of two over 1 2 3 1 2 4 1: Belady's own rule, worked by hand."""
    assert misses([1, 2, 3, 1, 2, 4, 1], 2) == [1, 2, 3, 2, 4]
    assert misses([1, 1, 1], 1) == [1]
    trace = make_trace("mixed", workers=5, jobs=300, seed=2)
    ours, best = run(trace, 5, "farm", 2, ticking), belady(trace, 5, 2, ticking)
    assert ours.hit_rate <= best.hit_rate <= bound(trace, 5).hit_rate
    assert ours.makespan_s == best.makespan_s


def test_options_change_a_made_trace(capsys: pytest.CaptureFixture[str]) -> None:
    steep, flat = (make_trace("zipf", workers=5, jobs=500, seed=1, zipf=value) for value in (2.0, 0.5))
    assert len(set(steep.wanted.tolist())) < len(set(flat.wanted.tolist()))
    calm, full = (make_trace("zipf", workers=5, jobs=500, seed=1, load=value) for value in (0.5, 1.0))
    assert calm.at[-1] == pytest.approx(2 * full.at[-1])
    assert (
        farm(
            [
                "simulate",
                "--workers",
                "2",
                "--jobs",
                "10",
                "--load",
                "0.7",
                "--zipf",
                "1.2",
                "--policy",
                "fifo",
            ]
        )
        == 0
    )
    assert "Zipf 1.2, load 0.7" in capsys.readouterr().out
