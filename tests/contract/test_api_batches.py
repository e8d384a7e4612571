"""Batches over HTTP: all rows or none, with every wrong row told."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, update

from farm.db.models import Job
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


def fail(farm: WebFarm, *job_ids: str, message: str = "=the file is damaged") -> None:
    with farm.services.sessions.begin() as session:
        session.execute(
            update(Job)
            .where(Job.id.in_(job_ids))
            .values(state="failed", error_code="bad_file", error_message=message)
        )


def test_failed_rows_are_a_file_that_can_be_mended_and_sent_again(farm: WebFarm):
    rows = [{"prompt": f"-fox {n}, red", "seed": n, "tags": ["x", "y"]} for n in range(250)]
    batch = send(farm, ndjson(rows)).get_json()
    jobs = [job["id"] for job in farm.get(f"/batches/{batch['id']}/jobs?limit=200").get_json()["items"]]
    jobs += [
        job["id"]
        for cursor in [farm.get(f"/batches/{batch['id']}/jobs?limit=200").get_json()["next_cursor"]]
        for job in farm.get(f"/batches/{batch['id']}/jobs?limit=200&cursor={cursor}").get_json()["items"]
    ]
    failed = sorted(jobs)[20:]  # more than one page of them
    fail(farm, *failed)
    answer = farm.get(f"/batches/{batch['id']}/failed")
    assert answer.mimetype == LINES
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in lines] == failed
    assert [(line["row"], line["job"]["seed"]) for line in lines] == [(n, n) for n in range(20, 250)]
    assert lines[0]["error"] == {"code": "bad_file", "message": "=the file is damaged"}

    answer = farm.get(f"/batches/{batch['id']}/failed?format=csv")
    assert answer.mimetype == "text/csv"
    assert f"{batch['id']}-failed.csv" in answer.headers["Content-Disposition"]
    table = list(csv.reader(io.StringIO(answer.text)))
    assert table[0][:5] == ["row", "job", "error", "reason", "prompt"]
    assert table[1][:5] == ["21", failed[0], "bad_file", "'=the file is damaged", "'-fox 20, red"]
    mended = io.StringIO()
    csv.writer(mended).writerows(line[4:] for line in table)
    again = send(farm, mended.getvalue().encode(), "text/csv")
    assert again.status_code == 202, again.text
    sent = farm.get(f"/batches/{again.get_json()['id']}/jobs?limit=200").get_json()["items"]
    assert sent[-1]["prompt"] == "-fox 50, red"
    assert sent[-1]["tags"] == ["x", "y"]
    assert farm.post(f"/batches/{batch['id']}:retry-failed").get_json()["retried"] == 230
    assert farm.get(f"/batches/{batch['id']}/failed").text == ""


def test_failed_rows_are_their_owners(farm: WebFarm):
    batch = send(farm, ndjson([{"prompt": "a"}])).get_json()["id"]
    assert farm.get(f"/batches/{batch}/failed", key=farm.stranger_key).status_code == 404
    assert farm.get(f"/batches/{batch}/failed?format=xml").status_code == 422
    assert farm.get("/batches/batch_none/failed").status_code == 404


def test_a_large_file_on_the_page_is_left_on_disk_and_a_small_one_is_shown(farm: WebFarm):
    browser = farm.browser()
    token = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', browser.get("/batches/new").text)
    assert token is not None

    def choose(data: bytes, do: str) -> Any:
        form = {"kind": "rows", "do": do, "name": "large", "csrf_token": token[1]}
        return browser.post("/batches/new", data={**form, "file": (io.BytesIO(data), "rows.jsonl")})

    small = ndjson([{"prompt": "a small fox", "steps": 0}])
    assert "a small fox" in choose(small, "check").text
    large = ndjson([{"prompt": "a large fox " + "in the snow " * 1000, "seed": n} for n in range(200)])
    assert len(large) > 2_000_000
    checked = choose(b"\xef\xbb\xbf" + large, "check")
    assert "200 jobs" in checked.text
    assert len(checked.text) < 600_000
    assert choose(large + b'{"prompt": "b", "steps": 0}\n', "queue").status_code == 422
    assert farm.get("/batches").get_json()["items"] == []
    assert choose(large, "queue").status_code == 303
    assert farm.get("/batches").get_json()["items"][0]["total"] == 200


def test_pages_ask_no_more_of_a_long_queue(farm: WebFarm):
    """The number of statements of each page is the same with few jobs and with many."""
    browser = farm.browser()

    def asked() -> dict[str, int]:
        found = {}
        for page in ("/queue", "/queue/lanes", "/batches", "/batches/list", f"/batches/{batch}"):
            sent: list[str] = []
            note = partial(_note, sent)
            event.listen(farm.services.engine, "before_cursor_execute", note)
            assert browser.get(page).status_code == 200
            event.remove(farm.services.engine, "before_cursor_execute", note)
            found[page] = len(sent)
        return found

    batch = send(farm, ndjson([{"prompt": "a"}] * 4)).get_json()["id"]
    jobs = sorted(job["id"] for job in farm.get(f"/batches/{batch}/jobs").get_json()["items"])
    fail(farm, jobs[0])
    render(farm, jobs[1])
    few = asked()
    for _ in range(5):
        more = send(farm, ndjson([{"prompt": "a"}] * 40)).get_json()["id"]
        found = farm.get(f"/batches/{more}/jobs?limit=200").get_json()["items"]
        fail(farm, *(job["id"] for job in found[:15]))
    assert asked() == few
    assert max(few.values()) <= 26, few


def _note(sent: list[str], *given: Any) -> None:
    sent.append(given[2])
