"""Who gives way: examples, and laws over any fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.jobs.rates import Rates
from farm.scheduler.facts import Snapshot
from farm.scheduler.group import Need, WaitingJob, gather
from farm.scheduler.held import Held
from farm.scheduler.lanes import WorkerView
from farm.scheduler.pauses import Pause
from farm.scheduler.plan import plan
from farm.scheduler.preempt import (
    HANDOVER_SECONDS,
    OBEY_SECONDS,
    REST_SECONDS,
    WAIT_SECONDS,
    Handover,
    Preempted,
    preempt,
)

#: on a busy machine everything is slow
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RATES = Rates(seconds_per_step={"m": 1.0, "n": 1.0}, load_seconds={"m": 5.0, "n": 5.0})
PLAIN = Need(model_key="m", model_bytes=1)
OTHER = Need(model_key="n", model_bytes=1)

_numbers = count()


def urgent(
    number: int = 1, *, priority: int = 0, owner: str = "ann", need: Need = PLAIN, key: str = ""
) -> WaitingJob:
    return WaitingJob(
        id=f"urgent_{number}", attempt=0, owner_id=owner, priority=priority, created_at=NOW - timedelta(seconds=1),
        need=need, batch_key="m", steps=5, count=1, key_id=key,
    )  # fmt: skip


def held(left: float, *, priority: int = 2, begun: bool = True, **more: object) -> Held:
    job = Held(
        id=f"held_{next(_numbers)}", attempt=1, owner_id="bob", priority=priority, need=PLAIN, left=left, begun=begun
    )  # fmt: skip
    return replace(job, **more)  # type: ignore[arg-type]


def decide(
    waiting: Sequence[WaitingJob],
    fleet: Sequence[Sequence[Held]],
    *,
    window: int = 2,
    workers_more: Sequence[dict[str, object]] = (),
    **more: object,
) -> Preempted:
    """After a round over workers w0, w1, … that have these jobs."""
    workers = tuple(
        WorkerView(
            id=f"w{number}", name=f"gpu-{number}", free_slots=max(0, window - len(jobs)), model_key="m",
            busy_seconds=sum(job.left for job in jobs), disk=frozenset("mn"), rates=RATES,
        )
        for number, jobs in enumerate(fleet)
    )  # fmt: skip
    if workers_more:
        workers = tuple(
            replace(worker, **own)  # type: ignore[arg-type]
            for worker, own in zip(workers, workers_more, strict=True)
        )
    on = {f"w{number}": tuple(jobs) for number, jobs in enumerate(fleet)}
    snapshot = replace(Snapshot(groups=gather(waiting), workers=workers, held=on), **more)
    return preempt(snapshot, plan(snapshot, NOW))


def only(found: Preempted) -> Handover:
    (handover,) = found.handovers
    return handover


def ids(jobs: Sequence[Held]) -> list[str]:
    return [job.id for job in jobs]


def test_the_running_bulk_job_is_saved_and_the_one_behind_it_goes_back() -> None:
    running, ready = held(300), held(300, begun=False)
    found = only(decide([urgent()], [[running, ready]]))
    assert (found.job_id, found.attempt, found.worker_id) == ("urgent_1", 0, "w0")
    assert (ids(found.victims), ids(found.taken_back)) == ([running.id], [ready.id])
    assert (found.seconds, found.instead_of) == (HANDOVER_SECONDS, 600.0)


def test_a_job_that_was_given_a_place_behind_a_long_one_gets_the_device_there() -> None:
    running = held(300)
    found = only(decide([urgent()], [[running]]))
    assert (found.job_id, found.attempt) == ("urgent_1", None)
    assert (ids(found.victims), found.taken_back) == ([running.id], ())
    # and so does one that the worker has had before
    found = only(decide([], [[running, held(5, priority=0, begun=False)]]))
    assert ids(found.victims) == [running.id]
    assert not decide([], [[held(5, priority=0), held(300, begun=False)]]).handovers


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (held(300, priority=0), "its equal"),
        (held(HANDOVER_SECONDS + WAIT_SECONDS), "it is done soon"),
        (held(300, saves=False), "it would start over"),
        (held(300, rested=REST_SECONDS - 1), "it gave way a moment ago"),
        (held(300, asked=True, rested=1.0), "it was asked already"),
        (held(300, asked=True, rested=OBEY_SECONDS + 1), "it was asked and stays"),
    ],
)
def test_what_does_not_give_way(job: Held, why: str) -> None:
    assert not decide([urgent()], [[job, held(5, priority=0, begun=False)]]).handovers, why


def test_what_gave_way_long_ago_may_do_so_again() -> None:
    assert decide([urgent()], [[held(300, rested=REST_SECONDS)]]).handovers


def test_pauses_and_limits_hold_for_both_sides() -> None:
    fleet = [[held(300), held(300)]]
    behind = [[held(300), held(5, priority=0, begun=False, owner_id="ann")]]
    assert decide([], behind).handovers
    for subject in ("ann", "bob"):
        pauses = (Pause(kind="user", subject=subject),)
        assert not decide([urgent()], fleet, pauses=pauses).handovers
        assert not decide([], behind, pauses=pauses).handovers
    assert not decide([urgent()], fleet, running={"ann": 1}, running_limit=1).handovers
    key = urgent(key="key_1")
    assert not decide([key], fleet, running={"key_1": 1}, limits={"key_1": 1}).handovers
    assert decide([key], fleet, running={"key_1": 1}, limits={"key_1": 2}).handovers
    two = [[held(300), held(300)] for _ in range(2)]
    assert len(decide([urgent(1), urgent(2)], two, limits={"ann": 1}).handovers) == 1
    assert len(decide([urgent(1), urgent(2)], two).handovers) == 2


def test_bulk_goes_before_normal_and_what_has_most_left_before_what_is_nearly_done() -> None:
    normal, short, long = (
        [held(left, priority=priority), held(500, begun=False)]
        for left, priority in ((400, 1), (90, 2), (300, 2))
    )
    assert only(decide([urgent()], [normal, short, long])).worker_id == "w2"
    assert only(decide([urgent()], [normal, short])).worker_id == "w1"


def test_the_worker_where_it_starts_soonest_makes_room() -> None:
    """A model that has to be loaded there, and back again for the one that gave way, counts."""
    fleet = [[held(300), held(300)], [held(900), held(900)]]
    found = only(decide([urgent(need=OTHER)], fleet))
    assert (found.worker_id, found.seconds) == ("w1", HANDOVER_SECONDS + RATES.load_seconds["n"])
    found = only(decide([urgent(need=OTHER)], fleet, workers_more=[{"model_key": "n"}, {}]))
    assert (found.worker_id, found.seconds) == ("w0", HANDOVER_SECONDS)


def test_a_job_whose_model_would_have_to_come_back_needs_more_left_for_that() -> None:
    slow = {"rates": Rates(seconds_per_step={"m": 1.0}, load_seconds={"m": 60.0, "n": 1.0})}
    fleet = [[held(50), held(50, begun=False)]]
    assert only(decide([urgent()], fleet, workers_more=[slow])).victims
    # what is left of it is less than loading its model again
    assert not only(decide([urgent(need=OTHER)], fleet, workers_more=[slow])).victims
    longer = [[held(69), held(50, begun=False)]]
    assert only(decide([urgent(need=OTHER)], longer, workers_more=[slow])).victims


def test_jobs_that_share_the_device_go_together_or_not_at_all() -> None:
    together = [held(300), held(200)]
    assert ids(only(decide([urgent()], [together])).victims) == ids(together)
    assert not decide([urgent()], [[held(300), held(200, saves=False)]]).handovers


def test_only_a_worker_that_meets_its_pins_makes_room() -> None:
    pinned = replace(PLAIN, tags=frozenset({"a100"}))
    fleet = [[held(90), held(90)], [held(900), held(900)]]
    assert not decide([urgent(need=pinned)], fleet).handovers
    tagged = [{"tags": frozenset({"a100"})}, {}]
    assert only(decide([urgent(need=pinned)], fleet, workers_more=tagged)).worker_id == "w0"


def test_a_worker_makes_room_for_one_at_a_time() -> None:
    fleet = [[held(300), held(300)]]
    assert only(decide([urgent(1), urgent(2)], fleet)).job_id == "urgent_1"
    asked = [held(300, asked=True, rested=2.0), held(300, begun=False)]
    assert not decide([urgent(1), urgent(2)], [asked]).handovers
    assert not decide([urgent(priority=1)], fleet).handovers


def test_what_has_not_begun_makes_room_behind_a_job_that_stays() -> None:
    stays, ready = held(12, priority=0), held(200, begun=False)
    found = only(decide([urgent()], [[stays, ready]]))
    assert (found.victims, ids(found.taken_back), found.seconds) == ((), [ready.id], 12)


def test_a_worker_that_makes_room_already_is_one_for_the_first_that_waits() -> None:
    asked = [held(300, asked=True, rested=2.0), held(300, begun=False)]
    other = [held(300), held(300, begun=False)]
    assert not decide([urgent(1)], [asked, other]).handovers
    assert only(decide([urgent(1), urgent(2)], [asked, other])).worker_id == "w1"
    # it does so for the urgent job that it has
    busy = [held(300, asked=True, rested=2.0), held(5, priority=0, begun=False)]
    assert only(decide([urgent(1)], [busy, other])).worker_id == "w1"


def test_the_urgent_jobs_seconds_are_booked_to_their_user() -> None:
    found = decide([urgent()], [[held(300), held(300)]], weights={"ann": 2.0})
    assert found.ledger.virtual["ann"] == 2.5


#: most of them may give way
JOBS = st.builds(
    held, st.sampled_from([3.0, 30.0, 300.0]), priority=st.sampled_from([0, 1, 2, 2]), begun=st.booleans(),
    saves=st.sampled_from([True, True, True, False]), asked=st.sampled_from([False, False, False, True]),
    rested=st.sampled_from([None, None, 1.0, 70.0, 300.0]),
)  # fmt: skip


@CALM
@given(
    fleet=st.lists(st.lists(JOBS, max_size=4), min_size=1, max_size=5),
    waiting=st.lists(st.integers(0, 2), max_size=5),
    window=st.integers(1, 4),
)
def test_laws(fleet: list[list[Held]], waiting: list[int], window: int) -> None:
    asked = [urgent(number, priority=priority) for number, priority in enumerate(waiting)]
    found = decide(asked, fleet, window=window).handovers
    given_before = sum(any(not (job.priority or job.begun) for job in jobs) for jobs in fleet)
    assert len(found) <= waiting.count(0) + given_before
    assert len({handover.worker_id for handover in found}) == len(found)
    assert len({handover.job_id for handover in found}) == len(found)
    for handover in found:
        jobs = fleet[int(handover.worker_id[1:])]
        gone = (*handover.victims, *handover.taken_back)
        assert gone
        assert all(job.priority > 0 and job in jobs and not job.asked for job in gone)
        assert all(job.begun and job.saves and job.left > HANDOVER_SECONDS for job in handover.victims)
        assert all(job.rested is None or job.rested >= REST_SECONDS for job in handover.victims)
        # one that has the device with others does not go alone
        assert len(handover.victims) in (0, sum(job.begun for job in jobs))
        assert handover.seconds + WAIT_SECONDS < handover.instead_of
        if handover.job_id.startswith("urgent"):
            assert waiting[int(handover.job_id.removeprefix("urgent_"))] == 0
    if all(sum(job.begun for job in jobs) <= 1 for jobs in fleet):
        assert sum(len(handover.victims) for handover in found) <= waiting.count(0) + given_before
