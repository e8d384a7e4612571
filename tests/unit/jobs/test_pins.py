"""Pins as people write them, and the estimate that goes by them and by the plan's own costs."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.errors import BadRequest
from farm.jobs.estimate import Need, decide
from farm.jobs.pins import LEAST_MEMORY, MOST_MEMORY, is_tag, memory_text, met, parse_memory, parse_tags
from farm.jobs.rates import Lane, Rates
from farm.jobs.reports import WorkerReport
from farm.scheduler.group import Need as PlanNeed
from farm.scheduler.lanes import Lane as PlanLane
from farm.scheduler.lanes import WorkerView

#: on a busy machine everything is slow
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CALM
@given(st.integers(LEAST_MEMORY, MOST_MEMORY))
def test_memory_is_read_back_as_it_is_told(count: int) -> None:
    assert parse_memory(memory_text(count)) == count == parse_memory(count) == parse_memory(f"{count}")


@CALM
@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_a_sentence(text: str) -> None:
    found, hint = LEAST_MEMORY, ""
    try:
        found = parse_memory(text)
    except BadRequest as error:
        hint = error.hint
    assert LEAST_MEMORY <= found <= MOST_MEMORY
    assert hint or parse_memory(text) == found


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GB", 24 * 10**9), ("24gib", 24 * 2**30), ("0.5 tb", 5 * 10**11), ("8192 MiB", 2**33), ("1m", 10**6)],
)
def test_units(text: str, count: int) -> None:
    assert parse_memory(text) == count


@pytest.mark.parametrize(
    "text", ["", "24", "GB", "1e9", "24 G B", "-24GB", "24,5GB", "9999999PB", "٢٤GB", "1GB\n2"]
)
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_memory(text)


def test_a_workers_tags_are_checked() -> None:
    assert parse_tags(" A100, studio a100,") == ("a100", "studio")
    assert parse_tags("") == ()
    for text in ("größe", "-x", "x" * 33, "a b c d e f g h i"):
        with pytest.raises(BadRequest):
            parse_tags(text)
    assert not is_tag("a\n")


def test_one_that_told_no_memory_is_taken_to_have_enough() -> None:
    assert met(10**9, (), has_memory=0, has_tags=())
    assert not met(10**9, (), has_memory=10**9 - 1, has_tags=())
    assert not met(0, ("a",), has_memory=10**12, has_tags=("b",))


NEED = Need(model_key="m", model_bytes=10**9, networks={"a": 10**8}, batch_key="k", steps=50)


def test_the_estimate_goes_to_a_worker_that_meets_the_pins() -> None:
    near = Lane(name="near", report=WorkerReport(models=("m",), adapters=("a",), memory_total=8 * 10**9))
    far = Lane(name="far", report=WorkerReport(memory_total=80 * 10**9, tags=("h100",)), busy_seconds=60)
    need = Need(model_key="m", model_bytes=10**9, networks={}, batch_key="k", steps=50, tags=("h100",))
    assert decide(NEED, [near, far], []).worker == "near"
    assert decide(need, [near, far], []).worker == "far"
    found = decide(need, [near], [])
    assert (found.worker, found.starts_in) == (None, None)
    assert found.sentence == "about 25 s · no worker tagged h100 is up"
    # more jobs spread over those that may take them
    assert decide(need, [near, far], [], jobs=4).seconds == 4 * found.seconds


REPORTS = st.builds(
    WorkerReport,
    models=st.sampled_from([(), ("m",), ("n",)]),
    adapters=st.sampled_from([(), ("a",)]),
    disk=st.sampled_from([(), ("a",), ("a", "b"), ("b", "m")]),
    load_seconds=st.sampled_from([{}, {"m": 3.0}, {"n": 9.0}]),
    fetch_bytes_per_second=st.none() | st.floats(1e5, 1e9),
    adapter_seconds=st.none() | st.floats(0, 5),
)


@CALM
@given(REPORTS, st.floats(0, 100))
def test_the_estimate_before_submission_and_the_plan_reckon_alike(report: WorkerReport, busy: float) -> None:
    view = WorkerView(
        id="w", name="w", free_slots=1, busy_seconds=busy, model_key=report.models[-1] if report.models else None,
        adapters=frozenset(report.adapters), disk=frozenset(report.disk), rates=Rates.of(report),
    )  # fmt: skip
    networks = {"a": 10**8, "b": 10**7}
    start = PlanLane(view).start(PlanNeed(model_key="m", model_bytes=10**9, adapters=tuple(networks.items())))
    assert busy + Lane(name="w", report=report).start_seconds("m", 10**9, networks) == pytest.approx(start)
