"""Users, keys and their limits over HTTP, and the pins of jobs."""

from __future__ import annotations

from typing import Any

import pytest

from farm.jobs.reports import WorkerReport
from tests.contract.test_api_jobs import submit
from tests.support.jobs import add_worker, job_row
from tests.support.web import API, WebFarm


def test_an_admin_adds_users_and_sets_their_share_and_limit(farm: WebFarm):
    made = farm.post("/users", {"name": "mia", "running_limit": 3})
    assert made.status_code == 201
    assert {
        "name": "mia",
        "role": "artist",
        "share_weight": 1.0,
        "running_limit": 3,
    }.items() <= made.json.items()
    changed = farm.request("PATCH", "/users/mia", json={"share_weight": 2.5}).get_json()
    assert (changed["share_weight"], changed["running_limit"]) == (2.5, 3)
    changed = farm.request("PATCH", "/users/mia", json={"running_limit": None}).get_json()
    assert (changed["share_weight"], changed["running_limit"]) == (2.5, None)
    assert "mia" in [row["name"] for row in farm.get("/users").get_json()["items"]]
    key = farm.post("/users/mia/keys", {"label": "first"}).get_json()["key"]
    assert farm.get("/jobs", key=key).status_code == 200


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "code"),
    [
        ("POST", "/users", {"name": "tim", "role": "king"}, 422, "unknown_role"),
        ("POST", "/users", {"name": "tim", "share_weight": 0}, 422, "bad_weight"),
        ("POST", "/users", {"name": "stranger"}, 409, "name_taken"),
        ("PATCH", "/users/stranger", {"running_limit": -1}, 422, "bad_limit"),
        ("PATCH", "/users/nobody", {"running_limit": 1}, 404, "no_user"),
        ("POST", "/keys", {"running_limit": 0}, 422, "bad_limit"),
        ("DELETE", "/keys/key_unknown", None, 404, "no_key"),
    ],
)
def test_what_is_no_user_weight_or_limit_is_told(
    farm: WebFarm, verb: str, path: str, body: Any, status: int, code: str
):
    answer = farm.request(verb, path, json=body)
    assert (answer.status_code, answer.get_json()["code"]) == (status, code)


def test_users_are_for_admins_and_keys_for_their_owner(farm: WebFarm):
    for verb, path in (("GET", "/users"), ("POST", "/users"), ("PATCH", "/users/stranger")):
        body = {"name": "x"} if verb == "POST" else {} if verb == "PATCH" else None
        assert farm.request(verb, path, key=farm.stranger_key, json=body).status_code == 403
    assert farm.post("/users/admin/keys", {}, key=farm.stranger_key).status_code == 403
    made = farm.post("/keys", {"label": "mine"}, key=farm.stranger_key).get_json()
    assert made["id"] in [row["id"] for row in farm.get("/keys", key=farm.stranger_key).json["items"]]
    assert made["id"] not in [row["id"] for row in farm.get("/keys").json["items"]]
    assert farm.request("DELETE", f"/keys/{made['id']}").status_code == 404
    assert farm.request("DELETE", f"/keys/{made['id']}", key=farm.stranger_key).status_code == 204
    assert farm.get("/jobs", key=made["key"]).status_code == 401


def test_jobs_remember_a_key_with_a_limit_however_they_are_sent(farm: WebFarm):
    made = farm.post("/keys", {"label": "script", "running_limit": 2}).get_json()
    assert made["running_limit"] == 2
    sessions = farm.services.sessions
    job = submit(farm, key=made["key"], prompt="a fox")
    assert job_row(sessions, job["id"]).key_id == made["id"]
    batch = farm.post("/batches", {"rows": [{"prompt": "a"}]}, key=made["key"]).get_json()
    row = farm.get(f"/batches/{batch['id']}/jobs").get_json()["items"][0]
    assert job_row(sessions, row["id"]).key_id == made["id"]
    assert job_row(sessions, submit(farm, prompt="a fox")["id"]).key_id is None
    browser = farm.app.test_client()
    browser.get(f"/login?token={made['key']}")
    assert browser.get(f"{API}/jobs").status_code == 200
    # a key that could make others would have no limit
    refused = farm.post("/keys", {}, key=made["key"])
    assert (refused.status_code, refused.get_json()["code"]) == (403, "forbidden")


def test_a_pinned_job_is_kept_with_its_pins_and_warned_of_while_nobody_meets_them(farm: WebFarm):
    asked = {"prompt": "a fox", "worker_tags": ["A100", "studio", "a100"], "min_memory": "24 GB"}
    job = submit(farm, **asked)
    assert (job["worker_tags"], job["min_memory"]) == (["a100", "studio"], 24 * 10**9)
    assert job["warnings"] == [
        "no worker with 24 GB tagged a100 and studio is up; the job waits until one is"
    ]
    row = job_row(farm.services.sessions, job["id"])
    assert (row.worker_tags, row.min_memory) == (["a100", "studio"], 24 * 10**9)
    assert not {"worker_tags", "min_memory"} & set(row.spec)
    checked = farm.post("/jobs:validate", asked).get_json()
    assert (checked["estimate"]["worker"], checked["estimate"]["starts_in"]) == (None, None)
    report = WorkerReport(memory_total=25 * 10**9, tags=("a100", "studio", "x"))
    add_worker(farm.services.sessions, "gpu-2", report)
    assert submit(farm, **asked)["warnings"] == []
    assert farm.post("/jobs:validate", asked).get_json()["estimate"]["worker"] == "gpu-2"
    assert farm.get("/workers").get_json()["items"][0]["tags"] == ["a100", "studio", "x"]
    text = "prompt,worker_tags,min_memory\na fox,A100 studio,24GB\n"
    batch = farm.post("/batches", data=text, content_type="text/csv").get_json()
    row = farm.get(f"/batches/{batch['id']}/jobs").get_json()["items"][0]
    assert (row["worker_tags"], row["min_memory"]) == (["a100", "studio"], 24 * 10**9)


@pytest.mark.parametrize(
    ("field", "value", "pointer", "words"),
    [
        ("worker_tags", ["a 100"], "/worker_tags/0", "'a 100' is no tag of a worker"),
        ("worker_tags", list("abcdefghi"), "/worker_tags", "9 tags"),
        ("worker_tags", "a100", "/worker_tags", "not a list"),
        ("min_memory", "24 GX", "/min_memory", "'24 GX' is no amount of memory"),
        ("min_memory", 24, "/min_memory", "24 is 24 bytes"),
        ("min_memory", -1, "/min_memory", "-1 is -1 bytes"),
        ("min_memory", True, "/min_memory", "not a whole number"),
    ],
)
def test_what_no_worker_could_ever_have_is_refused(
    farm: WebFarm, field: str, value: Any, pointer: str, words: str
):
    answer = farm.post("/jobs", {"prompt": "a fox", field: value})
    assert answer.status_code == 422
    (problem,) = answer.get_json()["errors"]
    assert problem["pointer"] == pointer
    assert words in problem["message"]
    assert problem["hint"]
