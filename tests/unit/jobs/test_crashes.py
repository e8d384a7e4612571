"""What lost attempts prove, and what they do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.jobs.crashes import Ended, independent, is_outage, is_poison, is_suspect

START = datetime(2026, 1, 2, tzinfo=UTC)


def ended(job: str, outcome: str, began: int, end: int, *, pardoned: bool = False) -> Ended:
    return Ended(
        job_id=job,
        outcome=outcome,
        pardoned=pardoned,
        started_at=START + timedelta(seconds=began),
        ended_at=START + timedelta(seconds=end),
    )


def history(*rows: Ended) -> list[Ended]:
    """Newest first."""
    return sorted(rows, key=lambda row: row.started_at, reverse=True)


ONE, TWO, THREE = (ended(job, "lost", 10 * n, 10 * n + 5) for n, job in enumerate("abc"))


def test_g08_three_crashes_in_a_row_on_different_jobs_make_a_worker_suspect() -> None:
    assert is_suspect(history(ONE, TWO, THREE))
    assert not is_suspect(history(ONE, TWO))


def test_g08_what_succeeds_clears_a_worker_and_what_else_ends_does_not() -> None:
    later = ended("d", "succeeded", 90, 95)
    assert not is_suspect(history(ONE, TWO, THREE, later))
    assert not is_suspect(history(ONE, ended("d", "succeeded", 6, 8), TWO, THREE))
    for outcome in ("failed", "cancelled", "drained", "preempted", "blocked", "transient"):
        assert is_suspect(history(ONE, ended("d", outcome, 16, 18), TWO, THREE)), outcome


def test_g08_one_job_that_crashes_a_worker_again_and_again_is_not_the_workers_fault() -> None:
    rows = [ended("a", "lost", 10 * n, 10 * n + 5) for n in range(9)]
    beside = [ended(f"b{n}", "lost", 10 * n + 1, 10 * n + 5) for n in range(9)]
    assert not is_suspect(history(*rows))
    assert not is_suspect(history(*rows, *beside))


def test_g08_jobs_that_ran_together_were_lost_in_one_crash() -> None:
    pair = [ended("a", "lost", 0, 9), ended("b", "lost", 4, 9)]
    assert not is_suspect(history(*pair, ended("c", "lost", 20, 25)))
    assert is_suspect(history(*pair, ended("c", "lost", 20, 25), ended("d", "lost", 30, 35)))


def test_g08_an_outage_makes_no_worker_suspect() -> None:
    assert not is_suspect(history(ONE, TWO, ended("c", "lost", 20, 25, pardoned=True)))


@pytest.mark.parametrize(
    ("lost", "fleet", "outage"),
    [
        ({"one": {"a"}}, 1, False),
        ({"one": {"a"}, "two": {"b"}}, 2, True),
        ({"one": {"a", "b"}, "two": {"b"}}, 2, False),
        ({"one": {"a"}, "two": set()}, 6, True),
        ({"one": {"a"}, "two": {"b"}}, 7, False),
        ({str(n): {str(n)} for n in range(30)}, 100, True),
        ({str(n): {str(n)} for n in range(29)}, 100, False),
        ({str(n): {"poison"} for n in range(100)}, 100, False),
    ],
)
def test_g08_an_outage_is_a_third_of_the_fleet_that_no_single_job_brought_down(
    lost: dict[str, set[str]], fleet: int, outage: bool
) -> None:
    assert is_outage(lost, fleet) == outage


@given(st.lists(st.sets(st.integers(0, 5), max_size=3), max_size=8))
def test_one_job_never_makes_two_independent_crashes(crashes: list[set[int]]) -> None:
    named = [frozenset(map(str, jobs)) for jobs in crashes]
    together = [jobs | {"poison"} for jobs in named]
    assert independent(together) == min(1, len(together))
    assert independent(named) <= len(named)


@given(st.integers(1, 5), st.integers(0, 3), st.sets(st.sampled_from("abc"), min_size=1))
def test_every_job_that_goes_on_crashing_is_given_up(limit: int, others: int, lost_on: set[str]) -> None:
    verdicts = [is_poison(crashes, limit, lost_on, others) for crashes in range(1, 2 * limit + 1)]
    assert verdicts[-1]
    assert not any(verdicts[: limit - 1])
    assert verdicts == sorted(verdicts)
