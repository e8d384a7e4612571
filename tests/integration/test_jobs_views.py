"""What people are shown: the agreed fields, few queries however long the list, and never what belongs to somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session, sessionmaker

from farm.db.models import Batch
from farm.errors import BadRequest, NotFound
from farm.jobs import attempts, views, workers
from farm.jobs.reports import WorkerReport
from tests.support.jobs import (
    LATER,
    MODEL_KEY,
    NOW,
    OWNER,
    STRANGER,
    add_job,
    add_worker,
    new_image,
    seed,
    start,
)

Sessions = sessionmaker[Session]
JOB_FIELDS = {
    "id", "state", "stage", "step", "steps", "total_steps", "position", "estimated_start", "estimated_low", "estimated_high", "waiting_because", "worker", "attempt",
    "batch", "owner", "created_at", "started_at", "finished_at", "error", "images", "networks", "timings", "warnings",
    "prompt", "negative_prompt", "model", "width", "height", "guidance_scale", "sampler", "seed", "count", "priority",
    "tags", "webhook", "frames", "fps", "hr_scale", "hr_steps", "hr_strength",
}  # fmt: skip


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """Statements that run meanwhile."""
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def farm(sessions: Sessions) -> Sessions:
    """Twelve jobs of the owner: one done with two pictures, one failed, one running, the rest waiting; one of a stranger."""
    seed(sessions)
    worker = add_worker(sessions, "gpu-1", WorkerReport(models=(MODEL_KEY,), adapters=("f" * 64,)))
    with sessions.begin() as session:
        session.add(Batch(id="batch_1", owner_id=OWNER, name="foxes", total=12, created_at=NOW))
        session.add(Batch(id="batch_2", owner_id=STRANGER, name="cats", total=1, created_at=NOW))
    network = {"name": "ink", "sha256": "f" * 64, "adapter_id": "lora_1"}
    ids = [f"job_a{number:02}" for number in range(12)]
    for job_id in ids:
        add_job(sessions, id=job_id, batch_id="batch_1", networks=[network])
    done, failed, running = (start(sessions, job_id, worker) for job_id in ids[:3])
    with sessions.begin() as session:
        attempts.succeed(session, ids[0], done, [new_image(0), new_image(1)], {"sampling": 2.0}, LATER)
        attempts.fail(session, ids[1], failed, "bad", "it broke", LATER)
        attempts.heartbeat(session, worker, [(ids[2], running, "sampling", 3)])
    add_job(sessions, STRANGER, id="job_z00", batch_id="batch_2")
    return sessions


def test_a_job_has_the_agreed_fields(farm: Sessions) -> None:
    with farm() as session:
        done = views.job_view(session, OWNER, "job_a00")
        listed = views.list_jobs(session, OWNER).items[0]
    assert set(done) >= JOB_FIELDS | {"attempts", "events"}
    assert set(listed) >= JOB_FIELDS
    assert (done["state"], done["worker"], done["timings"]) == ("succeeded", "gpu-1", {"sampling": 2.0})
    assert [image["seed"] for image in done["images"]] == [7, 8]
    assert set(done["images"][0]) >= {"id", "seed", "sha256", "width", "height", "url"}
    assert [item["transition"] for item in done["events"]] == ["assign", "claim", "succeed"]
    assert [item["outcome"] for item in done["attempts"]] == ["succeeded"]


def test_states_are_told_in_full(farm: Sessions) -> None:
    with farm() as session:
        failed = views.job_view(session, OWNER, "job_a01")
        running = views.job_view(session, OWNER, "job_a02")
        first, second = (views.job_view(session, OWNER, f"job_a0{n}") for n in (3, 4))
    assert failed["error"] == {"code": "bad", "message": "it broke"}
    assert (running["stage"], running["step"], running["position"]) == ("sampling", 3, None)
    # the stranger's turn is between them
    assert (first["position"], second["position"], first["worker"]) == (0, 2, None)


def test_lists_are_paged_newest_first(farm: Sessions) -> None:
    seen: list[str] = []
    cursor: str | None = ""
    with farm() as session:
        while cursor is not None:
            page = views.list_jobs(session, OWNER, cursor=cursor, limit=5)
            seen += [item["id"] for item in page.items]
            cursor = page.next_cursor
    assert seen == [f"job_a{number:02}" for number in reversed(range(12))]


def test_lists_are_filtered(farm: Sessions) -> None:
    def count(**filters: Any) -> int:
        with farm() as session:
            return len(views.list_jobs(session, OWNER, **filters).items)

    assert count(states=["queued"]) == 9
    assert count(states=["succeeded", "failed"]) == 2
    assert count(batch="batch_1") == 12
    assert count(batch="batch_2") == 0
    assert count(model="TINY") == 12
    assert count(model="other") == 0
    assert count(network="nobody") == 0
    assert count(worker="gpu-1") == 3
    assert count(worker="a\x00b") == 0
    with pytest.raises(BadRequest):
        count(states=["waiting"])
    with pytest.raises(BadRequest):
        count(cursor="nonsense")


def test_images_are_listed_searched_starred_and_deleted(farm: Sessions) -> None:
    with farm.begin() as session:
        page = views.list_images(session, OWNER)
        assert [item["index"] for item in page.items] == [1, 0]
        first = page.items[0]["id"]
        assert len(views.list_images(session, OWNER, search="FOX a").items) == 2
        assert views.list_images(session, OWNER, search="f%x").items == ()
        assert views.patch_image(session, OWNER, first, starred=True)["starred"]
        assert [item["id"] for item in views.list_images(session, OWNER, starred=True).items] == [first]
        assert len(views.list_images(session, OWNER, batch="batch_1", job="job_a00", model="tiny").items) == 2
        views.delete_image(session, OWNER, first)
        assert len(views.list_images(session, OWNER).items) == 1
        assert len(views.job_view(session, OWNER, "job_a00")["images"]) == 1
        with pytest.raises(NotFound):
            views.image_view(session, OWNER, first)


def test_batches_count_their_jobs(farm: Sessions) -> None:
    with farm() as session:
        batch = views.batch_view(session, OWNER, "batch_1")
        assert views.list_batches(session, OWNER).items == (batch,)
    assert (batch["total"], batch["done"]) == (12, 2)
    assert {name: n for name, n in batch["states"].items() if n} == {
        "queued": 9, "running": 1, "succeeded": 1, "failed": 1,
    }  # fmt: skip


def test_workers_tell_what_they_hold(farm: Sessions) -> None:
    with farm() as session:
        (view,) = views.worker_views(session)
        assert views.worker_view(session, view["id"]) == view
    assert view["models"] == [{"key": MODEL_KEY, "name": "tiny"}]
    assert view["jobs"] == [
        {"id": "job_a02", "state": "running", "stage": "sampling", "step": 3, "total_steps": 4}
    ]


def test_the_queue_is_summed_up(farm: Sessions) -> None:
    with farm() as session:
        summary = views.queue_summary(session, OWNER)
    assert (summary["waiting"], summary["running"], summary["workers"]) == (10, 1, 1)
    assert summary["mine"] == {"assigned": 0, "queued": 9, "running": 1}
    # 41 steps at half a second each, as nothing is measured yet
    assert summary["seconds"] == pytest.approx(20.5)
    assert summary["sentence"] == "10 waiting · 1 running · about 20 s"


SCOPED: dict[str, Callable[[Session, str], Any]] = {
    "job": lambda s, owner: views.job_view(s, owner, "job_a00"),
    "batch": lambda s, owner: views.batch_view(s, owner, "batch_1"),
    "image": lambda s, owner: views.image_view(s, owner, _any_image(s)),
    "star": lambda s, owner: views.patch_image(s, owner, _any_image(s), starred=True),
    "delete": lambda s, owner: views.delete_image(s, owner, _any_image(s)),
}
LISTS: dict[str, Callable[[Session, str], tuple[dict[str, Any], ...]]] = {
    "jobs": lambda s, owner: views.list_jobs(s, owner).items,
    "jobs of a batch": lambda s, owner: views.list_jobs(s, owner, batch="batch_1").items,
    "jobs of a worker": lambda s, owner: views.list_jobs(s, owner, worker="gpu-1").items,
    "batches": lambda s, owner: views.list_batches(s, owner).items,
    "images": lambda s, owner: views.list_images(s, owner).items,
    "images of a job": lambda s, owner: views.list_images(s, owner, job="job_a00").items,
    "images of a batch": lambda s, owner: views.list_images(s, owner, batch="batch_1").items,
}


def _any_image(session: Session) -> str:
    return str(views.list_images(session, OWNER).items[0]["id"])


def test_nobody_sees_what_is_not_theirs(farm: Sessions) -> None:
    with farm() as session:
        for name, view in SCOPED.items():
            with pytest.raises(NotFound):
                view(session, STRANGER)
            session.rollback()
            assert name == "delete" or view(session, OWNER)
            session.rollback()
        for name, items in LISTS.items():
            shown = {item["id"] for item in items(session, STRANGER)}
            assert shown <= {"job_z00", "batch_2"}, name
            assert items(session, OWNER), name
        assert views.queue_summary(session, STRANGER)["mine"]["queued"] == 1
        # of other people's jobs the fleet shows progress, no words and no owner
        assert all(
            set(job) == {"id", "state", "stage", "step", "total_steps"}
            for job in views.worker_views(session)[0]["jobs"]
        )


@pytest.mark.parametrize(
    ("view", "most"),
    [
        (lambda s: views.job_view(s, OWNER, "job_a05"), 9),
        (lambda s: views.list_jobs(s, OWNER), 7),
        (lambda s: views.list_jobs(s, OWNER, states=["succeeded"]), 2),
        (lambda s: views.list_jobs(s, OWNER, model="tiny", network="ink"), 9),
        (lambda s: views.batch_view(s, OWNER, "batch_1"), 2),
        (lambda s: views.list_batches(s, OWNER), 2),
        (lambda s: views.list_images(s, OWNER), 1),
        (views.worker_views, 5),
        (lambda s: views.queue_summary(s, OWNER), 5),
    ],
)
def test_views_ask_few_questions(
    farm: Sessions, engine: Engine, view: Callable[[Session], Any], most: int
) -> None:
    with farm() as session, counted(engine) as statements:
        view(session)
    assert len(statements) <= most, statements


def test_gone_workers_stand_last(farm: Sessions) -> None:
    add_worker(farm, "gpu-0")
    with farm.begin() as session:
        workers.leave(session, views.worker_views(session)[0]["id"], NOW)
        assert [view["name"] for view in views.worker_views(session)] == ["gpu-1", "gpu-0"]
