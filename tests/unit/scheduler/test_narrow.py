"""Jobs that may not begin on every worker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from farm.scheduler.facts import Snapshot
from farm.scheduler.group import Need, WaitingJob, gather
from farm.scheduler.lanes import WorkerView
from farm.scheduler.narrow import Hindrance, elsewhere, without_fetching
from farm.scheduler.plan import plan
from farm.scheduler.reasons import why_waiting

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def worker(name: str, **values: Any) -> WorkerView:
    return WorkerView(
        **{"id": name, "name": name, "free_slots": 4, "busy_seconds": 0.0, "model_key": None} | values
    )


def job(name: str, **need: Any) -> WaitingJob:
    return WaitingJob(
        id=name, attempt=0, owner_id="user", priority=1, created_at=NOW, batch_key="k", steps=4, count=1,
        need=Need(**{"model_key": "m", "model_bytes": 10} | need),
    )  # fmt: skip


def given(waiting: list[WaitingJob], workers: list[WorkerView], **values: Any) -> dict[str, str]:
    made = plan(Snapshot(groups=gather(waiting), workers=tuple(workers), **values), NOW)
    return {item.job_id: item.worker_id for item in made.assignments}


def test_g08_a_lost_job_goes_to_a_worker_on_which_it_was_not_lost() -> None:
    hot, cold = worker("hot", model_key="m"), worker("cold")
    both = [job("lost"), job("well")]
    lost_on = {"lost": frozenset({"hot"})}
    assert given(elsewhere(both, lost_on, [hot, cold]), [hot, cold]) == {"lost": "cold", "well": "hot"}
    # when there is no other, the same one has to do
    assert given(elsewhere(both, lost_on, [hot]), [hot]) == {"lost": "hot", "well": "hot"}
    everywhere = {"lost": frozenset({"hot", "cold"})}
    assert given(elsewhere(both, everywhere, [hot, cold]), [hot, cold])["lost"] == "hot"


def test_g08_a_pinned_job_goes_back_to_the_only_worker_that_suits_it() -> None:
    big, small = worker("big", memory_bytes=48), worker("small", memory_bytes=8)
    pinned = [job("pinned", memory_bytes=24)]
    assert elsewhere(pinned, {"pinned": frozenset({"big"})}, [big, small]) == pinned


def test_g06_while_the_store_is_away_jobs_go_where_everything_is_and_the_others_wait() -> None:
    hot = worker("hot", model_key="m", adapters=frozenset({"a"}), disk=frozenset({"b"}))
    cold = worker("cold")
    waiting = [
        job("plain"), job("memory", adapters=(("a", 1),)), job("disk", adapters=(("a", 1), ("b", 1))),
        job("adapter", adapters=(("c", 1),)), job("model", model_key="other"),
    ]  # fmt: skip
    narrowed = without_fetching(waiting, [hot, cold])
    away = Hindrance(words="store unreachable since 12:00 UTC")
    snapshot = Snapshot(groups=gather(narrowed), workers=(hot, cold), store=away)
    made = plan(snapshot, NOW)
    assert {item.job_id: item.worker_id for item in made.assignments} == dict.fromkeys(
        ("plain", "memory", "disk"), "hot"
    )
    needs = {item.id: item.need for item in narrowed}
    assert {item.job_id: why_waiting(needs[item.job_id], item) for item in made.outlooks} == dict.fromkeys(
        ("adapter", "model"), away.words
    )


def test_g12_when_every_worker_is_blocked_the_reason_is_theirs() -> None:
    blocked = Hindrance(words="no worker that is up takes jobs: one: its disk is full")
    made = plan(Snapshot(groups=gather([job("a")]), workers=(), nobody=blocked), NOW)
    assert [why_waiting(job("a").need, item) for item in made.outlooks] == [blocked.words]
