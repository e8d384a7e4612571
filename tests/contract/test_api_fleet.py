"""Workers, models, samplers, presets and counts over HTTP."""

from __future__ import annotations

import pytest

from farm.db.models import Worker
from farm.jobs.reports import WorkerReport
from tests.support.jobs import add_worker
from tests.support.web import WebFarm


@pytest.fixture
def worker(farm: WebFarm) -> str:
    report = WorkerReport(
        device="cuda:0", device_name="H1", memory_total=100, memory_free=40, adapters=("a" * 64,)
    )
    return add_worker(farm.services.sessions, "gpu-1 cuda:0", report)


def test_workers_are_listed_with_what_they_hold(farm: WebFarm, worker: str):
    items = farm.get("/workers").get_json()["items"]
    assert [item["id"] for item in items] == [worker]
    assert {
        "name",
        "state",
        "device",
        "device_name",
        "memory_total",
        "memory_free",
        "adapters",
        "jobs",
    } <= set(items[0])
    assert items[0]["memory_free"] == 40


def test_a_worker_is_found_by_id_and_by_a_name_with_colons(farm: WebFarm, worker: str):
    for word in (worker, "gpu-1 cuda:0", "gpu-1%20cuda%3A0"):
        assert farm.get(f"/workers/{word}").get_json()["id"] == worker
    assert farm.get("/workers/gpu-2").status_code == 404


def test_an_operator_drains_and_resumes(farm: WebFarm, worker: str):
    for word in (worker, "gpu-1 cuda:0"):
        assert farm.post(f"/workers/{word}:drain").get_json()["state"] == "draining"
        assert farm.post(f"/workers/{word}:resume").get_json()["state"] == "up"
    assert farm.post("/workers/gpu-2:drain").status_code == 404


def test_an_operator_has_the_model_loaded_afresh(farm: WebFarm, worker: str):
    assert farm.post(f"/workers/{worker}:reload").get_json()["state"] == "up"
    with farm.services.sessions() as session:
        assert session.get(Worker, worker).reloads_requested == 1
    assert farm.post("/workers/gpu-2:reload").status_code == 404


def test_an_operator_pauses_and_resumes_the_queue_a_model_or_a_user(farm: WebFarm):
    assert farm.get("/queue/pauses").get_json() == {"items": []}
    [row] = farm.post("/queue:pause", {"kind": "queue"}).get_json()["items"]
    assert row["kind"] == "queue"
    assert farm.post("/queue:pause", {"kind": "queue"}).get_json()["items"] == [row]
    assert farm.post("/queue:pause", {"kind": "user", "name": "nobody"}).status_code == 404
    assert farm.post("/queue:resume", {"kind": "queue"}).get_json() == {"items": []}
    for verb in ("pause", "resume"):
        assert farm.post(f"/queue:{verb}", {"kind": "queue"}, key=farm.stranger_key).status_code == 403


def test_an_artist_does_not(farm: WebFarm, worker: str):
    for verb in ("drain", "resume", "reload"):
        answer = farm.post(f"/workers/{worker}:{verb}", key=farm.stranger_key)
        assert answer.status_code == 403
    assert farm.get(f"/workers/{worker}").get_json()["state"] == "up"


def test_models_are_found_by_id_and_name(farm: WebFarm):
    item = farm.get("/models").get_json()["items"][0]
    assert (item["name"], item["family"]) == ("demo", "demo")
    for word in (item["id"], "demo"):
        assert farm.get(f"/models/{word}").get_json()["id"] == item["id"]
    assert farm.get("/models/none").status_code == 404


def test_samplers_have_keys_and_labels(farm: WebFarm):
    items = farm.get("/samplers").get_json()["items"]
    assert {"key": "dpmpp_2m_karras", "label": "DPM++ 2M Karras"} in items


def test_counts_are_told(farm: WebFarm):
    farm.post("/jobs", {"prompt": "a fox"})
    stats = farm.get("/stats").get_json()
    assert stats


def test_presets_are_kept_replaced_and_forgotten(farm: WebFarm):
    first = farm.post("/presets", {"name": "quick", "spec": {"steps": 4}}).get_json()
    second = farm.post("/presets", {"name": "quick", "spec": {"steps": 8}}).get_json()
    assert first["id"] == second["id"]
    assert [item["spec"] for item in farm.get("/presets").get_json()["items"]] == [{"steps": 8}]
    assert farm.get("/presets", key=farm.stranger_key).get_json()["items"] == []
    assert farm.request("DELETE", f"/presets/{first['id']}").status_code == 204
    assert farm.request("DELETE", f"/presets/{first['id']}").status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"),
        ({"name": "", "spec": {}}, "/name"),
        ({"name": "a", "spec": []}, "/spec"),
        ({"name": "a", "spec": {}, "x": 1}, "/x"),
        ({"name": "a\u0000", "spec": {}}, ""),
    ],
)
def test_a_wrong_preset_is_told_with_its_place(farm: WebFarm, body: dict[str, object], pointer: str):
    answer = farm.post("/presets", body)
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["pointer"] == pointer
