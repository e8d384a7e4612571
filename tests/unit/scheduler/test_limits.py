"""Limits of users and of their keys in the plan, and the ledger that one leader leaves to the next."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farm.scheduler.reasons import why_waiting
from farm.scheduler.share import QUANTUM_SECONDS, Ledger
from tests.unit.scheduler.test_plan_laws import decide, job, worker

#: on a busy machine everything is slow
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CALM
@given(
    jobs=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "k", "l"])), max_size=25),
    own=st.integers(0, 3),
    key=st.integers(1, 3),
    running=st.integers(0, 2),
)
def test_a_users_own_limit_and_its_keys_limit_hold(
    jobs: list[tuple[str, str]], own: int, key: int, running: int
) -> None:
    waiting = [
        replace(job(number, owner=owner), key_id=f"{owner}{name}" if name else "")
        for number, (owner, name) in enumerate(jobs)
    ]
    made = decide(
        waiting, [worker(1, slots=6), worker(2, slots=6)], running_limit=4, running={"ak": running, "a": running},
        limits={"a": own, "ak": key, "bl": 1},
    )  # fmt: skip
    by_id = {item.id: item for item in waiting}
    given = [by_id[item.job_id] for item in made.assignments]
    users = Counter(item.owner_id for item in given) + Counter({"a": running})
    keys = Counter(item.key_id for item in given if item.key_id) + Counter({"ak": running})
    assert users["b"] <= 4
    assert not own or users["a"] <= max(own, running)
    assert keys["ak"] <= max(key, running)
    assert keys["bl"] <= 1
    holds = {item.job_id: item.hold for item in made.outlooks}
    for name, hold in holds.items():
        item = by_id[name]
        user_is_full = users[item.owner_id] >= ({"a": own, "b": 4}[item.owner_id] or len(jobs) + running)
        key_is_full = keys[item.key_id] >= {"ak": key, "bl": 1}.get(item.key_id, len(jobs) + 1)
        assert {"limit": user_is_full, "key limit": key_is_full, None: not (user_is_full or key_is_full)}[
            hold
        ]
    assert sorted([*holds, *(item.id for item in given)]) == sorted(by_id)


def test_a_full_key_does_not_hold_back_what_its_user_asks_for_otherwise() -> None:
    waiting = [replace(job(number), key_id="k") for number in range(5)] + [job(9)]
    made = decide(waiting, [worker(1, slots=3)], limits={"k": 1})
    assert {item.job_id for item in made.assignments} == {"job_00000", "job_00009"}
    held = {item.job_id: item for item in made.outlooks}
    assert why_waiting(waiting[1].need, held["job_00001"]).startswith("as many jobs of its API key are on")


def test_a_ledger_that_was_kept_says_the_same_to_the_next_leader() -> None:
    ledger = Ledger(virtual={"a": 4 * QUANTUM_SECONDS, "b": 1.0}, floor=2.0)
    kept = Ledger.from_dict(ledger.as_dict())
    assert kept == Ledger(virtual={"a": 4 * QUANTUM_SECONDS}, floor=2.0)
    assert Ledger.from_dict({}) == Ledger()
    both = [job(number, owner="ab"[number > 5]) for number in range(12)]
    order = []
    for _ in range(6):
        made = decide(both, [worker(1)], ledger=kept)
        kept = made.ledger
        given = {item.job_id for item in made.assignments}
        order += [item.owner_id for item in both if item.id in given]
        both = [item for item in both if item.id not in given]
    assert order == ["b"] * 6
