"""Batches over HTTP: all rows or none, with every wrong row told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.web import API, WebFarm, render

LINES = "application/x-ndjson"


def ndjson(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def send(farm: WebFarm, data: bytes, media_type: str = LINES, query: str = "", **options: Any) -> Any:
    return farm.post(f"/batches{query}", data=data, content_type=media_type, **options)


def test_a_thousand_lines_are_accepted_as_one(farm: WebFarm):
    answer = send(
        farm, ndjson([{"prompt": "a fox", "seed": seed} for seed in range(1000)]), query="?name=foxes"
    )
    assert answer.status_code == 202, answer.text
    batch = answer.get_json()
    assert answer.headers["Location"] == f"{API}/batches/{batch['id']}"
    assert (batch["name"], batch["total"], batch["states"]["queued"]) == ("foxes", 1000, 1000)
    page = farm.get(f"/batches/{batch['id']}/jobs?limit=200").get_json()
    assert len(page["items"]) == 200
    assert page["next_cursor"]
    assert {job["batch"] for job in page["items"]} == {batch["id"]}


def test_csv_and_json_will_do_too(farm: WebFarm):
    csv = send(farm, b'prompt,seed,tags\n"a fox, red",5,x y\nan owl,,\n', "text/csv").get_json()
    assert csv["total"] == 2
    jobs = farm.get(f"/batches/{csv['id']}/jobs").get_json()["items"]
    assert {job["prompt"] for job in jobs} == {"a fox, red", "an owl"}
    assert next(job for job in jobs if job["seed"] == 5)["tags"] == ["x", "y"]
    listed = farm.post("/batches", {"rows": [{"prompt": "a"}, {"prompt": "b"}], "name": "two"}).get_json()
    assert (listed["total"], listed["name"]) == (2, "two")
    farm.add_adapter("ink")
    matrix = {"base": {"prompt": "a fox <lora:ink:{w}>"}, "axes": {"w": [0.2, 0.8], "seed": [1, 2, 3]}}
    assert farm.post("/batches", matrix).get_json()["total"] == 6


def test_one_wrong_row_refuses_all_and_each_is_told(farm: WebFarm):
    rows = [{"prompt": "a"}, {"prompt": "b", "steps": 0}, {"promt": "c"}, {"prompt": "d <lora:ghost:1>"}]
    answer = send(farm, ndjson(rows) + b"{broken\n")
    assert answer.status_code == 422
    problems = answer.get_json()["errors"]
    pointers = [problem["pointer"] for problem in problems]
    assert "/rows/1/steps" in pointers
    assert "/rows/2/promt" in pointers
    assert "/rows/2/prompt" in pointers
    assert "/rows/3/prompt" in pointers
    assert pointers[-1] == "/rows/4"
    assert problems[-1]["code"] == "unreadable_row"
    assert farm.get("/jobs").get_json()["items"] == []
    assert farm.get("/batches").get_json()["items"] == []


def test_csv_mistakes_are_told_by_row_and_cell(farm: WebFarm):
    answer = send(farm, b"prompt,steps\na,20\nb,many\nc,5,6\n", "text/csv")
    assert answer.status_code == 422
    problems = {problem["pointer"]: problem for problem in answer.get_json()["errors"]}
    assert set(problems) == {"/rows/1/steps", "/rows/2"}
    assert "'many'" in problems["/rows/1/steps"]["message"]
    assert "3 cells" in problems["/rows/2"]["message"]


@pytest.mark.parametrize(
    ("data", "media_type", "status"),
    [
        (b"", LINES, 422),
        (b"prompt\n", "text/csv", 422),
        (b"", "text/csv", 400),
        (b"{}", "application/json", 400),
        (b'{"rows": [{"prompt": "a"}], "axes": {}}', "application/json", 400),
        (b'{"rows": {}}', "application/json", 422),
        (b'{"rows": [5]}', "application/json", 422),
        (b'{"rows": [], "extra": 1}', "application/json", 422),
        (b'{"base": {"prompt": "a"}, "axes": {"seed": []}}', "application/json", 422),
        (b'{"base": {"prompt": "a"}, "axes": {"w": [1]}}', "application/json", 422),
        (b'{"name": "\\ud800", "rows": [{"prompt": "a"}]}', "application/json", 422),
        (b'{"rows": [NaN]}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"a", "application/xml", 415),
        (b"a", "", 415),
    ],
)
def test_what_is_no_batch_is_refused(farm: WebFarm, data: bytes, media_type: str, status: int):
    answer = send(farm, data, media_type)
    assert answer.status_code == status, answer.text
    assert answer.get_json()["detail"]


def test_a_matrix_larger_than_allowed_is_refused_unmade(farm: WebFarm):
    axes = {"seed": list(range(1000)), "steps": list(range(1, 201))}
    answer = farm.post("/batches", {"base": {"prompt": "a"}, "axes": axes})
    assert answer.status_code == 422
    assert "200000" in answer.get_json()["detail"]


def test_a_dry_run_checks_every_row_and_writes_nothing(farm: WebFarm):
    answer = send(farm, ndjson([{"prompt": "a", "count": 2}, {"prompt": "b"}]), query="?dry_run=true")
    assert answer.status_code == 200
    assert answer.get_json()["total"] == 2
    assert answer.get_json()["images"] == 3
    assert send(farm, ndjson([{"prompt": "a", "steps": 0}]), query="?dry_run=true").status_code == 422
    assert farm.get("/batches").get_json()["items"] == []


def test_the_same_batch_with_the_same_key_is_made_once(farm: WebFarm):
    rows = ndjson([{"prompt": "a"}, {"prompt": "b"}])
    headers = {"Idempotency-Key": "once"}
    first, second = (send(farm, rows, headers=headers) for _ in range(2))
    assert first.text == second.text
    assert send(farm, rows + b'{"prompt": "c"}\n', headers=headers).status_code == 409
    assert send(farm, rows, query="?name=other", headers=headers).status_code == 409
    assert len(farm.get("/batches").get_json()["items"]) == 1


def test_a_batch_counts_its_jobs_by_state(farm: WebFarm):
    batch = send(farm, ndjson([{"prompt": "a"}] * 3)).get_json()
    jobs = farm.get(f"/batches/{batch['id']}/jobs").get_json()["items"]
    render(farm, jobs[0]["id"])
    farm.post(f"/jobs/{jobs[1]['id']}:cancel")
    states = farm.get(f"/batches/{batch['id']}").get_json()["states"]
    assert (states["succeeded"], states["cancelled"], states["queued"]) == (1, 1, 1)
    done = farm.get(f"/batches/{batch['id']}/jobs?state=succeeded").get_json()["items"]
    assert [job["id"] for job in done] == [jobs[0]["id"]]


def test_what_is_left_is_cancelled_and_failed_ones_are_retried(farm: WebFarm):
    batch = send(farm, ndjson([{"prompt": "a"}] * 3)).get_json()
    job = farm.get(f"/batches/{batch['id']}/jobs?limit=1").get_json()["items"][0]
    render(farm, job["id"])
    assert farm.post(f"/batches/{batch['id']}:cancel").get_json() == {"id": batch["id"], "cancelled": 2}
    assert farm.post(f"/batches/{batch['id']}:cancel").get_json()["cancelled"] == 0
    assert farm.post(f"/batches/{batch['id']}:retry-failed").get_json() == {"id": batch["id"], "retried": 0}
    assert farm.get(f"/batches/{batch['id']}").get_json()["states"]["cancelled"] == 2


def test_batches_are_listed_newest_first(farm: WebFarm):
    for name in "abc":
        send(farm, ndjson([{"prompt": "a"}]), query=f"?name={name}")
    page = farm.get("/batches?limit=2").get_json()
    assert [batch["name"] for batch in page["items"]] == ["c", "b"]
    rest = farm.get(f"/batches?cursor={page['next_cursor']}").get_json()
    assert [batch["name"] for batch in rest["items"]] == ["a"]
