"""Jobs over HTTP: accepted durably, told where they stand, refused with the place of each mistake."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from farm.queue import events
from tests.contract.test_api_events import open_stream, parsed
from tests.support.web import API, WebFarm, render

ANSWERED = {
    "id", "state", "stage", "step", "steps", "total_steps", "position", "estimated_start", "estimated_low", "estimated_high", "waiting_because", "worker", "attempt",
    "batch", "owner", "created_at", "started_at", "finished_at", "error", "images", "networks", "timings", "warnings",
}  # fmt: skip
ASKED = {
    "prompt", "negative_prompt", "model", "width", "height", "steps", "guidance_scale", "sampler", "seed", "count",
    "priority", "tags", "worker_tags", "min_memory",
}  # fmt: skip


def submit(farm: WebFarm, key: str | None = None, **spec: Any) -> dict[str, Any]:
    answer = farm.post("/jobs", {"prompt": "a fox", **spec}, key=key)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.get_json()
    return job


def test_a_job_is_accepted_with_everything_filled_in(farm: WebFarm):
    farm.add_adapter("ink")
    answer = farm.post("/jobs", {"prompt": "a fox <lora:ink:0.8>", "seed": 5})
    assert answer.status_code == 202
    job = answer.get_json()
    assert answer.headers["Location"] == f"{API}/jobs/{job['id']}"
    assert set(job) >= ANSWERED | ASKED
    assert job["state"] == "queued"
    assert (job["steps"], job["seed"], job["width"], job["sampler"], job["model"]) == (
        20,
        5,
        64,
        "ddim",
        "demo",
    )
    assert [network["name"] for network in job["networks"]] == ["ink"]
    assert len(job["networks"][0]["sha256"]) == 64
    assert job["created_at"].endswith(("Z", "+00:00"))
    assert farm.get(f"/jobs/{job['id']}").get_json() == job


def test_a_submission_rings_the_scheduler_and_tells_open_pages(farm: WebFarm):
    stream = open_stream(farm)
    next(stream), next(stream)
    job = submit(farm)
    seen = next(stream)
    assert (seen.event, seen.data) == ("job", {"id": job["id"], "state": "queued"})
    assert farm.services.redis.xlen("farm:wake") == 1


def test_a_job_is_accepted_while_redis_is_away(farm: WebFarm, monkeypatch: pytest.MonkeyPatch):
    from redis.exceptions import ConnectionError as RedisAway

    def away(*args: object, **options: object) -> None:
        raise RedisAway("connection refused")

    monkeypatch.setattr(type(farm.services.redis), "execute_command", away)
    assert submit(farm)["state"] == "queued"


@pytest.mark.parametrize(
    ("spec", "pointer", "words"),
    [
        ({}, "/prompt", "missing"),
        ({"prompt": 5}, "/prompt", "a text"),
        ({"prompt": "a", "steps": 0}, "/steps", ""),
        ({"prompt": "a", "steps": 10**6}, "/steps", ""),
        ({"prompt": "a", "steps": "20"}, "/steps", "a whole number"),
        ({"prompt": "a", "width": 63}, "/width", ""),
        ({"prompt": "a", "count": 0}, "/count", ""),
        ({"prompt": "a", "guidance_scale": 1e308}, "/guidance_scale", ""),
        ({"prompt": "a", "sampler": "eulr"}, "/sampler", "euler"),
        ({"prompt": "a", "model": "dmo"}, "/model", "demo"),
        ({"prompt": "a", "priority": "urgent"}, "/priority", "interactive"),
        ({"prompt": "a", "promt": "b"}, "/promt", "did you mean 'prompt'"),
        ({"prompt": "a", "tags": "x"}, "/tags", "a list"),
        ({"prompt": "a", "webhook": "ftp://x"}, "/webhook", ""),
        ({"prompt": "a <lora:inc:1>"}, "/prompt", "ink"),
        ({"prompt": "a <lora:ink:lots>"}, "/prompt", ""),
        ({"prompt": "a\u0000b"}, "/prompt", ""),
    ],
)
def test_each_mistake_is_told_with_its_place_and_what_would_be_right(
    farm: WebFarm, spec: dict[str, Any], pointer: str, words: str
):
    farm.add_adapter("ink")
    for path in ("/jobs", "/jobs?dry_run=true"):
        answer = farm.post(path, spec)
        assert answer.status_code == 422, answer.text
        problem = answer.get_json()["errors"][0]
        assert problem["pointer"] == pointer
        assert problem["message"]
        assert problem["hint"]
        assert words in problem["message"] + problem["hint"]
    assert farm.get("/jobs").get_json()["items"] == []


def test_a_mistake_in_a_tag_has_its_column(farm: WebFarm):
    farm.add_adapter("ink")
    problem = farm.post("/jobs", {"prompt": "a fox <lora:ink:0.8:lots=1>"}).get_json()["errors"][0]
    assert problem["tag"] == "<lora:ink:0.8:lots=1>"
    assert problem["item"]
    assert problem["column"] >= 7


def test_every_mistake_is_told_at_once(farm: WebFarm):
    errors = farm.post("/jobs", {"prompt": "a", "steps": 0, "width": 1, "sampler": "x"}).get_json()["errors"]
    assert {error["pointer"] for error in errors} == {"/steps", "/width", "/sampler"}


@pytest.mark.parametrize("body", [[], "a fox", 5, None])
def test_a_body_that_is_no_object_is_refused(farm: WebFarm, body: Any):
    answer = farm.request("POST", "/jobs", json=body)
    assert answer.status_code in {400, 415, 422}


def test_a_dry_run_estimates_and_writes_nothing(farm: WebFarm):
    farm.add_adapter("ink")
    answer = farm.post("/jobs?dry_run=true", {"prompt": "a fox <lora:ink:0.8>"})
    assert answer.status_code == 200
    body = answer.get_json()
    assert body["estimate"]["sentence"]
    assert body["spec"]["steps"] == 20
    assert farm.get("/jobs").get_json()["items"] == []


def test_validation_explains_strengths_per_step(farm: WebFarm):
    farm.add_adapter("ink")
    spec = {"prompt": "a fox <lora:ink:0.2@1,0.9@10>", "steps": 12}
    for body in (spec, {"spec": spec}):
        answer = farm.post("/jobs:validate", body)
        assert answer.status_code == 200
        found = answer.get_json()
        assert found["valid"] is True
        assert found["errors"] == []
        assert found["prompt"].strip() == "a fox"
        strengths = found["explain"]["adapters"][0]["strengths"]["unet"]["in"]
        assert len(strengths) == 12
        assert (strengths[0], strengths[8], strengths[9]) == (0.2, 0.2, 0.9)
        assert found["estimate"]["sentence"]


def test_validation_of_a_wrong_job_is_an_answer_not_an_error(farm: WebFarm):
    answer = farm.post("/jobs:validate", {"prompt": "a <lora:ghost:1>", "steps": 0})
    assert answer.status_code == 200
    found = answer.get_json()
    assert found["valid"] is False
    assert {error["pointer"] for error in found["errors"]} >= {"/steps"}
    assert all(error["message"] for error in found["errors"])


def test_the_same_request_with_the_same_key_makes_one_job(farm: WebFarm):
    headers = {"Idempotency-Key": "once"}
    answers = [farm.post("/jobs", {"prompt": "a fox"}, headers=headers) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true", "true"]
    assert len(farm.get("/jobs").get_json()["items"]) == 1


def test_another_request_with_the_same_key_is_refused(farm: WebFarm):
    headers = {"Idempotency-Key": "once"}
    farm.post("/jobs", {"prompt": "a fox"}, headers=headers)
    answer = farm.post("/jobs", {"prompt": "an owl"}, headers=headers)
    assert answer.status_code == 409
    assert len(farm.get("/jobs").get_json()["items"]) == 1


def test_keys_of_two_people_do_not_meet(farm: WebFarm):
    headers = {"Idempotency-Key": "once"}
    mine = farm.post("/jobs", {"prompt": "a fox"}, headers=headers).get_json()
    theirs = farm.post("/jobs", {"prompt": "a fox"}, headers=headers, key=farm.stranger_key).get_json()
    assert mine["id"] != theirs["id"]


def test_a_refused_request_does_not_use_up_its_key(farm: WebFarm):
    headers = {"Idempotency-Key": "once"}
    assert farm.post("/jobs", {"prompt": "a", "steps": 0}, headers=headers).status_code == 422
    assert farm.post("/jobs", {"prompt": "a"}, headers=headers).status_code == 202


def test_many_at_once_with_the_same_key_make_one_job(farm: WebFarm):
    barrier = threading.Barrier(6)
    ids: list[str] = []

    def send() -> None:
        barrier.wait()
        answer = farm.post("/jobs", {"prompt": "a fox"}, headers={"Idempotency-Key": "race"})
        ids.append(answer.get_json()["id"])

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 6
    assert len(set(ids)) == 1


@pytest.mark.parametrize("key", ["x" * 201, "a\tb"])
def test_a_key_that_cannot_be_kept_is_refused(farm: WebFarm, key: str):
    answer = farm.post("/jobs", {"prompt": "a"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 422


def test_the_list_is_newest_first_filtered_and_paged(farm: WebFarm):
    ids = [submit(farm, prompt=f"fox {number}")["id"] for number in range(5)]
    first = farm.get("/jobs?limit=2").get_json()
    assert [job["id"] for job in first["items"]] == ids[4:2:-1]
    second = farm.get(f"/jobs?limit=3&cursor={first['next_cursor']}").get_json()
    assert [job["id"] for job in second["items"]] == ids[2::-1]
    assert second["next_cursor"] is None
    farm.post(f"/jobs/{ids[0]}:cancel")
    assert [job["id"] for job in farm.get("/jobs?state=cancelled").get_json()["items"]] == [ids[0]]
    assert len(farm.get("/jobs?state=queued,cancelled").get_json()["items"]) == 5
    assert farm.get("/jobs?model=demo").get_json()["items"]
    for query in ("state=lost", "cursor=nonsense!"):
        answer = farm.get(f"/jobs?{query}")
        assert answer.status_code == 422, query


def test_a_job_has_an_etag_that_changes_with_it(farm: WebFarm):
    job = submit(farm)
    seen = farm.get(f"/jobs/{job['id']}").headers["ETag"]
    assert seen.startswith('W/"')
    assert farm.get(f"/jobs/{job['id']}", headers={"If-None-Match": seen}).status_code == 304
    farm.post(f"/jobs/{job['id']}:cancel")
    assert farm.get(f"/jobs/{job['id']}", headers={"If-None-Match": seen}).status_code == 200


def test_priority_can_be_changed_while_it_waits(farm: WebFarm):
    job = submit(farm)
    etag = farm.get(f"/jobs/{job['id']}").headers["ETag"]
    changed = farm.request(
        "PATCH", f"/jobs/{job['id']}", json={"priority": "interactive"}, headers={"If-Match": etag}
    )
    assert changed.status_code == 200
    assert changed.get_json()["priority"] == "interactive"
    stale = farm.request("PATCH", f"/jobs/{job['id']}", json={"priority": "bulk"}, headers={"If-Match": etag})
    assert stale.status_code == 412
    wrong = farm.request("PATCH", f"/jobs/{job['id']}", json={"priority": "urgent"})
    assert wrong.get_json()["errors"][0]["pointer"] == "/priority"
    farm.post(f"/jobs/{job['id']}:cancel")
    assert farm.request("PATCH", f"/jobs/{job['id']}", json={"priority": "bulk"}).status_code == 409


def test_cancel_and_retry(farm: WebFarm):
    job = submit(farm)
    assert farm.post(f"/jobs/{job['id']}:retry").status_code == 409
    assert farm.post(f"/jobs/{job['id']}:cancel").get_json()["state"] == "cancelled"
    assert farm.post(f"/jobs/{job['id']}:cancel").get_json()["state"] == "cancelled"
    assert farm.post(f"/jobs/{job['id']}:retry").get_json()["state"] == "queued"


def test_a_job_that_has_succeeded_stays(farm: WebFarm):
    job = submit(farm)
    render(farm, job["id"])
    done = farm.get(f"/jobs/{job['id']}").get_json()
    assert done["state"] == "succeeded"
    assert done["images"][0]["url"] == f"{API}/images/{done['images'][0]['id']}/content"
    assert farm.post(f"/jobs/{job['id']}:cancel").status_code == 409
    assert farm.post(f"/jobs/{job['id']}:retry").status_code == 409


def test_transitions_are_listed(farm: WebFarm):
    job = submit(farm)
    render(farm, job["id"])
    items = farm.get(f"/jobs/{job['id']}/events").get_json()["items"]
    assert [item["transition"] for item in items] == ["submit", "assign", "claim", "succeed"]


def test_progress_of_one_job_streams_to_its_end(farm: WebFarm):
    job, other = submit(farm), submit(farm)
    answer = farm.get(f"/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"}, buffered=False)
    stream = parsed(iter(answer.response))
    next(stream), next(stream)
    first = next(stream)
    assert (first.event, first.data["state"]) == ("job", "queued")
    for job_id, step in ((other["id"], 1), (job["id"], 2)):
        events.publish(
            farm.services.redis,
            events.Event(topic="jobs", type="job", owner=farm.owner_id, data={"id": job_id, "step": step}),
        )
    assert next(stream).data == {"id": job["id"], "step": 2}
    render(farm, job["id"])
    events.publish(
        farm.services.redis,
        events.Event(
            topic="jobs", type="job", owner=farm.owner_id, data={"id": job["id"], "state": "succeeded"}
        ),
    )
    assert [(seen.event, (seen.data or {}).get("state")) for seen in stream] == [
        ("job", "succeeded"),
        ("job", "succeeded"),
        ("end", None),
    ]


def test_the_stream_of_an_ended_job_ends_at_once(farm: WebFarm):
    job = submit(farm)
    render(farm, job["id"])
    answer = farm.get(f"/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})
    assert [seen.event for seen in parsed(iter([answer.data]))] == ["message", "hello", "job", "end"]


def test_a_preview_is_there_while_the_job_runs(farm: WebFarm):
    job = submit(farm)
    assert farm.get(f"/jobs/{job['id']}/preview").get_json()["code"] == "no_preview"
    events.set_preview(farm.services.redis, job["id"], b"RIFF webp")
    shown = farm.get(f"/jobs/{job['id']}/preview")
    assert shown.data == b"RIFF webp"
    assert shown.mimetype == "image/webp"
    again = farm.get(f"/jobs/{job['id']}/preview", headers={"If-None-Match": shown.headers["ETag"]})
    assert again.status_code == 304


def test_a_page_of_the_list_costs_the_same_however_long_it_is(farm: WebFarm):
    from sqlalchemy import event

    for number in range(12):
        submit(farm, prompt=f"fox {number}")
    counts = []

    def count(*args: object) -> None:
        counts[-1] += 1

    event.listen(farm.services.engine, "before_cursor_execute", count)
    for limit in (2, 12):
        counts.append(0)
        farm.get(f"/jobs?limit={limit}")
    assert counts[0] == counts[1]
    assert counts[0] <= 12
