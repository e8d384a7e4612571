"""The cost model: who would start a job soonest, and the sentence that says so."""

from __future__ import annotations

import pytest

from farm.jobs.estimate import Need, decide
from farm.jobs.rates import Lane, Work, duration, fleet_seconds
from farm.jobs.reports import WorkerReport

NEED = Need(
    model_key="m", model_bytes=10**9, networks={"a": 10**8, "b": 10**8, "c": 10**8}, batch_key="k", steps=50
)
HOT = WorkerReport(models=("m",), adapters=("a", "b"), disk=("c",), seconds_per_step={"k": 2.0})


def test_without_workers_it_says_so() -> None:
    found = decide(NEED, [], [])
    assert (found.starts_in, found.worker) == (None, None)
    assert "no worker is up" in found.sentence


def test_the_sentence_of_a_worker_that_holds_most() -> None:
    found = decide(NEED, [Lane(name="gpu-2", report=HOT, busy_seconds=20.0)], [])
    assert (
        found.sentence
        == "1 min 40 s · starts in about 20 s on gpu-2, which holds this model and 2 of 3 adapters"
    )
    assert found.seconds == 100.0


def test_waiting_for_what_is_hot_may_be_sooner_than_loading() -> None:
    cold = Lane(name="gpu-1", report=WorkerReport(load_seconds={"m": 40.0}))
    assert decide(NEED, [cold, Lane(name="gpu-2", report=HOT, busy_seconds=20.0)], []).worker == "gpu-2"
    assert decide(NEED, [cold, Lane(name="gpu-2", report=HOT, busy_seconds=90.0)], []).worker == "gpu-1"


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (WorkerReport(), "which has to load this model first"),
        (WorkerReport(models=("m",), adapters=("a", "b", "c")), "which holds this model and all 3 adapters"),
        (WorkerReport(models=("m",)), "which holds this model and 0 of 3 adapters"),
    ],
)
def test_what_a_worker_holds_is_said(report: WorkerReport, words: str) -> None:
    assert decide(NEED, [Lane(name="w", report=report)], []).sentence.endswith(words)


def test_what_waits_before_it_is_shared_by_the_fleet() -> None:
    lanes = [Lane(name=name, report=HOT) for name in "ab"]
    ahead = [Work(batch_key="k", steps=30)]
    assert fleet_seconds(lanes, ahead) == 30.0
    found = decide(NEED, lanes, ahead)
    assert found.starts_in == pytest.approx(30.0, abs=0.2)
    assert decide(NEED, lanes, [], jobs=10).seconds == 5 * found.seconds


def test_unknown_rates_are_the_mean_of_the_known_ones() -> None:
    lane = Lane(name="w", report=WorkerReport(seconds_per_step={"a": 1.0, "b": 3.0}))
    assert lane.step_seconds("c") == 2.0
    assert fleet_seconds([], [Work(batch_key="k", steps=5)]) == 0.0


@pytest.mark.parametrize(
    ("seconds", "words"), [(59.6, "1 min"), (3599, "59 min"), (3600, "1 h 0 min"), (0, "1 s")]
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
