"""Adapters over HTTP: uploads are inspected before they are kept, and what is refused leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile

import httpx
import pytest
from PIL import Image
from sqlalchemy import func, select

from farm.db.models import Adapter, AdapterVersion, Upload
from farm.store import keys
from tests.support.web import API, WebFarm, lora_file, safetensors

GOOD = lora_file()


def begin(farm: WebFarm, data: bytes, name: str = "ink", key: str | None = None) -> dict[str, object]:
    answer = farm.post(
        "/loras", {"name": name, "file_name": f"{name}.safetensors", "size": len(data)}, key=key
    )
    assert answer.status_code == 202, answer.text
    body: dict[str, object] = answer.get_json()
    return body


def put(begun: dict[str, object], data: bytes) -> httpx.Response:
    upload = begun["upload"]
    assert isinstance(upload, dict)
    return httpx.request(upload["method"], upload["url"], content=data, headers=upload["headers"])


def objects(farm: WebFarm, prefix: str) -> list[str]:
    return [found.key for found in farm.services.store.list_objects(prefix)]


def rows(farm: WebFarm, table: type) -> int:
    with farm.services.sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def torch_like_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return out.getvalue()


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
BAD_FILES = {
    "cut short": GOOD[: len(GOOD) // 2],
    "cut inside the header": GOOD[:100],
    "one byte too long": GOOD + b"\0",
    "a pickle": pickle.dumps({"weights": [1.0] * 100}),
    "a zip as torch.save writes it": torch_like_zip(),
    "a huge header": struct.pack("<Q", 2**63) + b"{}" * 50,
    "no json": struct.pack("<Q", 10) + b"not json!!" + b"\0" * 20,
    "no adapter": struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 4,
    "a page of html": b"<!DOCTYPE html><html><body>404</body></html>",
    "zeros": b"\0" * 4096,
}


def test_an_upload_goes_straight_to_the_store(farm: WebFarm):
    begun = begin(farm, GOOD)
    assert str(begun["id"]) not in (farm.key, "")
    assert put(begun, GOOD).status_code == 200
    answer = farm.post(f"/loras/{begun['id']}:complete")
    assert answer.status_code == 201, answer.text
    adapter = answer.get_json()
    assert answer.headers["Location"] == f"{API}/loras/{adapter['id']}"
    assert adapter["name"] == "ink"
    assert adapter["type"] == "lora"
    assert adapter["sha256"] == hashlib.sha256(GOOD).hexdigest()
    assert adapter["size"] == len(GOOD)
    assert farm.services.store.get_bytes(keys.blob(adapter["sha256"])) == GOOD
    assert objects(farm, f"uploads/{begun['id']}") == []


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_upload_is_refused_and_leaves_nothing(farm: WebFarm, what: str):
    data = BAD_FILES[what]
    begun = begin(farm, data)
    assert put(begun, data).status_code == 200
    answer = farm.post(f"/loras/{begun['id']}:complete")
    assert answer.status_code in {415, 422}, answer.text
    assert len(answer.get_json()["detail"]) > 20
    assert objects(farm, f"uploads/{begun['id']}") == []
    assert not farm.services.store.exists(keys.blob(hashlib.sha256(data).hexdigest()))
    assert [rows(farm, table) for table in (Adapter, AdapterVersion, Upload)] == [0, 0, 0]
    assert farm.post(f"/loras/{begun['id']}:complete").status_code == 404


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_in_a_form_is_refused_and_leaves_nothing(farm: WebFarm, what: str):
    data = BAD_FILES[what]
    form = {"name": "ink", "file": (io.BytesIO(data), "ink.safetensors")}
    answer = farm.post("/loras", data=form)
    assert answer.status_code in {415, 422}, answer.text
    assert not farm.services.store.exists(keys.blob(hashlib.sha256(data).hexdigest()))
    assert [rows(farm, table) for table in (Adapter, AdapterVersion, Upload)] == [0, 0, 0]


def test_a_form_will_do_for_small_files(farm: WebFarm):
    adapter = farm.add_adapter("Ink Wash", data=GOOD)
    assert adapter["name"] == "Ink Wash"
    assert farm.get("/loras").get_json()["items"][0]["id"] == adapter["id"]


def test_the_name_comes_from_the_file_when_there_is_none(farm: WebFarm):
    form = {"file": (io.BytesIO(GOOD), "loras/Line Art.v2.safetensors")}
    assert farm.post("/loras", data=form).get_json()["name"] == "Line Art.v2"


def test_a_file_that_has_not_arrived_can_still_come(farm: WebFarm):
    begun = begin(farm, GOOD)
    answer = farm.post(f"/loras/{begun['id']}:complete")
    assert answer.status_code == 409
    assert answer.get_json()["code"] == "upload_missing"
    put(begun, GOOD)
    assert farm.post(f"/loras/{begun['id']}:complete").status_code == 201
    again = farm.post(f"/loras/{begun['id']}:complete")
    assert again.status_code == 409
    assert again.get_json()["code"] == "upload_completed"


def test_another_size_than_announced_does_not_get_in(farm: WebFarm):
    begun = begin(farm, GOOD[:-1])
    if put(begun, GOOD).is_success:
        assert farm.post(f"/loras/{begun['id']}:complete").status_code == 422
    assert rows(farm, Adapter) == 0


def test_nobody_completes_anothers_upload(farm: WebFarm):
    begun = begin(farm, GOOD)
    put(begun, GOOD)
    assert farm.post(f"/loras/{begun['id']}:complete", key=farm.stranger_key).status_code == 404
    assert farm.post(f"/loras/{begun['id']}:complete").status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"file_name": "a.safetensors"}, "/size", "missing"),
        ({"size": 100}, "/file_name", "missing"),
        ({"file_name": "a", "size": "100"}, "/size", "int_type"),
        ({"file_name": "a", "size": 100, "x": 1}, "/x", "extra_forbidden"),
        ({"file_name": "a", "size": 3}, "", "truncated"),
        ({"file_name": "a", "size": 10**13}, "", "file_too_large"),
        ({"name": "a:b", "file_name": "a", "size": 100}, "", "bad_name"),
        ({"name": "<script>", "file_name": "a", "size": 100}, "", "bad_name"),
        ({"name": "a\u202eb", "file_name": "a", "size": 100}, "", "bad_name"),
        ({"name": "x" * 101, "file_name": "a", "size": 100}, "", "bad_name"),
    ],
)
def test_a_wrong_beginning_is_told_with_its_place(
    farm: WebFarm, body: dict[str, object], pointer: str, code: str
):
    answer = farm.post("/loras", body)
    assert answer.status_code in {413, 422}
    problem = answer.get_json()["errors"][0]
    assert (problem["pointer"], problem["code"]) == (pointer, code)
    assert rows(farm, Upload) == 0


def test_a_form_without_a_file_is_told(farm: WebFarm):
    answer = farm.post("/loras", data={"name": "ink"}, content_type="multipart/form-data")
    assert answer.status_code == 422
    assert "`file`" in answer.get_json()["detail"]


def test_an_adapter_is_found_by_id_and_by_name_without_case(farm: WebFarm):
    adapter = farm.add_adapter("Ink")
    for word in (adapter["id"], "Ink", "ink", "INK"):
        assert farm.get(f"/loras/{word}").get_json()["id"] == adapter["id"]
    answer = farm.get("/loras/inc")
    assert answer.status_code == 404
    assert "Ink" in answer.get_json()["detail"]


def test_metadata_is_what_the_header_says(farm: WebFarm):
    farm.add_adapter("ink", data=lora_file(ss_output_name="ink"))
    info = farm.get("/loras/ink/metadata").get_json()
    assert info["metadata"]["ss_output_name"] == "ink"
    assert info["scheme"] == "kohya"


def test_a_patch_changes_what_it_names_and_keeps_the_rest(farm: WebFarm):
    farm.add_adapter("ink")
    body = {"trigger_words": ["ink style", "lines"], "default_strength": 0.7, "notes": "<b>mine</b>"}
    changed = farm.request("PATCH", "/loras/ink", json=body).get_json()
    assert changed["trigger_words"] == ["ink style", "lines"]
    assert changed["default_strength"] == 0.7
    assert changed["notes"] == "<b>mine</b>"
    renamed = farm.request("PATCH", "/loras/ink", json={"name": "wash"}).get_json()
    assert renamed["name"] == "wash"
    assert renamed["default_strength"] == 0.7
    assert farm.get("/loras/ink").status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"default_strength": "much"}, "/default_strength"),
        ({"default_strength": 1e9}, "/default_strength"),
        ({"trigger_words": "ink"}, "/trigger_words"),
        ({"trigger_words": [""]}, "/trigger_words/0"),
        ({"name": ""}, "/name"),
        ({"sha256": "0"}, "/sha256"),
    ],
)
def test_a_wrong_patch_is_told_with_its_place(farm: WebFarm, body: dict[str, object], pointer: str):
    farm.add_adapter("ink")
    answer = farm.request("PATCH", "/loras/ink", json=body)
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["pointer"] == pointer


def test_a_change_decided_on_an_old_state_is_refused(farm: WebFarm):
    farm.add_adapter("ink")
    seen = farm.get("/loras/ink").headers["ETag"]
    assert farm.get("/loras/ink", headers={"If-None-Match": seen}).status_code == 304
    farm.request("PATCH", "/loras/ink", json={"notes": "by somebody else"})
    late = farm.request("PATCH", "/loras/ink", json={"notes": "mine"}, headers={"If-Match": seen})
    assert late.status_code == 412
    now = farm.get("/loras/ink").headers["ETag"]
    assert farm.request("PATCH", "/loras/ink", json={}, headers={"If-Match": now}).status_code == 200


def test_an_adapter_can_be_removed(farm: WebFarm):
    farm.add_adapter("ink")
    assert farm.request("DELETE", "/loras/ink").status_code == 204
    assert farm.get("/loras/ink").status_code == 404
    assert farm.get("/loras").get_json()["items"] == []
    farm.add_adapter("ink")


def _picture(size: tuple[int, int] = (2000, 1000), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(out, kind)
    return out.getvalue()


def test_a_preview_is_made_small_and_loses_its_metadata(farm: WebFarm):
    farm.add_adapter("ink")
    assert farm.get("/loras/ink/preview").status_code == 404
    assert farm.get("/loras/ink").get_json()["preview"] is None
    answer = farm.request("PUT", "/loras/ink/preview", data=_picture(), content_type="image/png")
    assert answer.status_code == 204, answer.text
    shown = farm.get("/loras/ink/preview")
    assert shown.mimetype == "image/webp"
    with Image.open(io.BytesIO(shown.data)) as small:
        assert small.size == (512, 256)
    assert farm.get("/loras/ink/preview", headers={"If-None-Match": shown.headers["ETag"]}).status_code == 304
    view = farm.get("/loras/ink").get_json()
    assert view["preview"] == f"{API}/loras/{view['id']}/preview"
    before = objects(farm, "previews/")
    farm.request("PUT", "/loras/ink/preview", data=_picture(kind="JPEG"), content_type="image/jpeg")
    assert len(objects(farm, "previews/")) == len(before)


@pytest.mark.parametrize(
    ("data", "media_type", "status"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "image/svg+xml", 422),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "image/png", 422),
        (b"x", "text/plain", 415),
        (_picture((5000, 5000)), "image/png", 422),
    ],
)
def test_what_is_no_picture_is_no_preview(farm: WebFarm, data: bytes, media_type: str, status: int):
    farm.add_adapter("ink")
    assert farm.request("PUT", "/loras/ink/preview", data=data, content_type=media_type).status_code == status
    assert farm.get("/loras/ink/preview").status_code == 404


def test_the_list_is_searched_filtered_and_paged(farm: WebFarm):
    for number in range(5):
        farm.add_adapter(f"style {number}", data=lora_file(rank=number + 1))
    first = farm.get("/loras?limit=2").get_json()
    assert [item["name"] for item in first["items"]] == ["style 0", "style 1"]
    answer = farm.get(f"/loras?limit=2&cursor={first['next_cursor']}")
    assert [item["name"] for item in answer.get_json()["items"]] == ["style 2", "style 3"]
    assert 'rel="next"' in answer.headers["Link"]
    assert [item["name"] for item in farm.get("/loras?q=3").get_json()["items"]] == ["style 3"]
    assert farm.get("/loras?type=loha").get_json()["items"] == []
    assert farm.get("/loras?sort=size").get_json()["items"][0]["name"] == "style 4"
    assert farm.get("/loras?sort=colour").status_code == 422


def test_a_second_file_of_a_name_is_a_new_version(farm: WebFarm):
    first = farm.add_adapter("ink", data=lora_file(rank=1))
    second = farm.add_adapter("ink", data=lora_file(rank=2))
    assert first["id"] == second["id"]
    assert first["sha256"] != second["sha256"]


def test_anothers_name_is_not_taken_over(farm: WebFarm):
    farm.add_adapter("ink")
    form = {"name": "INK", "file": (io.BytesIO(lora_file(rank=3)), "a.safetensors")}
    assert farm.post("/loras", data=form, key=farm.stranger_key).status_code == 409


def test_the_content_decides_and_never_the_ending(farm: WebFarm):
    form = {"name": "a", "file": (io.BytesIO(GOOD), "a.ckpt")}
    assert farm.post("/loras", data=form).status_code == 201
    form = {"name": "b", "file": (io.BytesIO(safetensors({"model.weight": (4, 4)})), "b.safetensors")}
    answer = farm.post("/loras", data=form)
    assert answer.status_code == 422
    assert answer.get_json()["code"] == "not_an_adapter"
