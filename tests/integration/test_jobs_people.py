"""Users and keys, adapters as people keep them, remembered requests, and the lease of who leads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import ApiKey, Lease
from farm.errors import BadRequest, Conflict, NotFound
from farm.jobs import adapters, idempotency, leases, users, workers
from farm.jobs.reports import WorkerReport
from tests.support.catalog import add_adapter
from tests.support.jobs import LATER, NOW, OWNER, STRANGER
from tests.support.jobs import seed as seed_users

Sessions = sessionmaker[Session]


@pytest.fixture
def farm(sessions: Sessions) -> Sessions:
    seed_users(sessions, model=False)
    return sessions


def test_the_first_user_is_made_once_with_a_key(sessions: Sessions) -> None:
    with sessions.begin() as session:
        user, key = users.ensure_single_user(session, NOW)
        assert users.ensure_single_user(session, NOW) == (user, None)
    assert key is not None
    with sessions.begin() as session:
        found = users.find_by_key(session, key, LATER)
        assert found == users.UserView(id=user, name="admin", role="admin")
        kept = session.scalars(select(ApiKey)).one()
        assert key not in (kept.hash, kept.prefix)
        assert kept.last_used_at == LATER
        users.revoke_key(session, user, kept.id, LATER)
        assert users.find_by_key(session, key, LATER) is None


@pytest.mark.parametrize(
    "plain", ["", "farm_", "farm_abc", "x_y_z", "farm_" + "a" * 8 + "_" + "b" * 32, "ä_b_c"]
)
def test_anything_else_is_no_key(farm: Sessions, plain: str) -> None:
    with farm.begin() as session:
        key = users.create_key(session, OWNER, "laptop", NOW)
        assert users.find_by_key(session, plain, NOW) is None
        assert users.find_by_key(session, key[:-1] + ("a" if key[-1] != "a" else "b"), NOW) is None
        assert users.find_by_key(session, key, NOW) is not None


def test_keys_are_listed_and_revoked_by_their_owner_alone(farm: Sessions) -> None:
    with farm.begin() as session:
        users.create_key(session, OWNER, "laptop", NOW)
        (view,) = users.list_keys(session, OWNER)
        assert view["label"] == "laptop"
        assert users.list_keys(session, STRANGER) == []
        with pytest.raises(NotFound):
            users.revoke_key(session, STRANGER, view["id"], NOW)


def test_users_have_a_role_and_a_name_of_their_own(farm: Sessions) -> None:
    with farm.begin() as session:
        users.create_user(session, "mia", "operator", NOW)
        with pytest.raises(BadRequest):
            users.create_user(session, "tim", "king", NOW)
    with farm() as session, pytest.raises(Conflict):
        users.create_user(session, "mia", "artist", NOW)


def test_adapters_are_sorted_searched_and_paged(farm: Sessions) -> None:
    for number, name in enumerate(("Ink", "clay", "wash", "Ash")):
        add_adapter(
            farm, OWNER, NOW + timedelta(seconds=number), name, words="old paper" if name == "wash" else ""
        )

    def names(**filters: Any) -> list[str]:
        found, cursor = [], ""
        with farm() as session:
            while True:
                page = adapters.list_adapters(session, cursor=cursor, limit=2, **filters)
                found += [item["name"] for item in page.items]
                if page.next_cursor is None:
                    return found
                cursor = page.next_cursor

    assert names() == ["Ash", "clay", "Ink", "wash"]
    assert names(sort="newest") == ["Ash", "wash", "clay", "Ink"]
    assert sorted(names(sort="uses")) == sorted(names(sort="size")) == sorted(names())
    assert names(search="PAPER") == ["wash"]
    assert names(search="a -ash") == ["clay"]
    assert names(search="100%") == []
    assert names(base=["sdxl"]) == []
    assert len(names(type=["lora", "locon"])) == 4
    with pytest.raises(BadRequest):
        names(sort="colour")


def test_an_adapter_is_changed_by_its_owner_alone(farm: Sessions) -> None:
    adapter = add_adapter(farm, OWNER, NOW, "ink", words="ink wash")
    add_adapter(farm, OWNER, NOW, "clay")
    with farm.begin() as session:
        view = adapters.patch_adapter(
            session, OWNER, adapter, name="Ink2", trigger_words=[" a  b ,", "a b", ""], default_strength=0.5, notes="n",
            now=NOW,
        )  # fmt: skip
        assert (view["name"], view["trigger_words"], view["default_strength"]) == ("Ink2", ["a b"], 0.5)
        row = adapters.find(session, ["INK2", "nobody"])
        assert list(row) == ["ink2"]
        assert row["ink2"].trigger_words == ("a b",)
        view = adapters.patch_adapter(session, OWNER, adapter, trigger_words=[], now=NOW)
        assert view["trigger_words"] == ["ink wash"]
        for change in ({"default_strength": float("inf")}, {"name": " "}):
            with pytest.raises(BadRequest):
                adapters.patch_adapter(session, OWNER, adapter, now=NOW, **change)
        with pytest.raises(NotFound):
            adapters.patch_adapter(session, STRANGER, adapter, notes="mine", now=NOW)
        with pytest.raises(NotFound):
            adapters.delete_adapter(session, STRANGER, adapter, NOW)
        with pytest.raises(NotFound):
            adapters.set_preview(session, STRANGER, adapter, "key")
        adapters.set_preview(session, OWNER, adapter, "key")
        assert adapters.adapter_view(session, adapter)["preview_key"] == "key"
    with farm() as session, pytest.raises(Conflict):
        adapters.patch_adapter(session, OWNER, adapter, name="CLAY", now=NOW)
    with pytest.raises(Conflict):
        add_adapter(farm, STRANGER, NOW, "CLAY")


def test_adapters_tell_which_workers_hold_them(farm: Sessions) -> None:
    adapter = add_adapter(farm, OWNER, NOW, "ink", sha256="9" * 64)
    with farm.begin() as session:
        workers.register(session, "gpu-1", "cpu", WorkerReport(adapters=("9" * 64,)), NOW)
        workers.register(session, "gpu-2", "cpu", WorkerReport(), NOW)
        assert adapters.adapter_view(session, adapter)["hot_on"] == ["gpu-1"]


def test_a_request_is_answered_once(farm: Sessions) -> None:
    digest = idempotency.request_hash("POST", "/jobs", b"{}")
    assert digest != idempotency.request_hash("POST", "/jobs", b"{ }")
    with farm.begin() as session:
        assert idempotency.recall(session, OWNER, "k", digest) is None
        idempotency.remember(session, OWNER, "k", digest, 202, {"id": "job_1"}, NOW)
    with farm() as session:
        kept = idempotency.recall(session, OWNER, "k", digest)
        assert kept == idempotency.Remembered(status=202, response={"id": "job_1"})
        assert idempotency.recall(session, STRANGER, "k", digest) is None
        with pytest.raises(Conflict):
            idempotency.recall(session, OWNER, "k", "other")
    with farm() as session, pytest.raises(Conflict):
        idempotency.remember(session, OWNER, "k", digest, 202, {}, NOW)


def test_the_lease_passes_by_epoch_and_counter(sessions: Sessions) -> None:
    with sessions.begin() as session:
        assert leases.read(session, "scheduler") is None
        assert leases.create(session, "scheduler", "a") == 1
        assert leases.create(session, "scheduler", "b") is None
        assert leases.renew(session, "scheduler", "a", 1)
        assert leases.take(session, "scheduler", "b", 1, 0) is None
        assert leases.take(session, "scheduler", "b", 1, 1) == 2
        assert not leases.renew(session, "scheduler", "a", 1)
        assert not leases.release(session, "scheduler", "a", 1)
        assert leases.release(session, "scheduler", "b", 2)
        found = leases.read(session, "scheduler")
        assert found == leases.LeaseView(holder="", epoch=2, seq=1)
        assert session.scalars(select(Lease)).one().name == "scheduler"
