"""Finished pictures over HTTP."""

from __future__ import annotations

import hashlib
import io
import json

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.contract.test_api_jobs import submit
from tests.support.web import API, WebFarm, render

PICTURE = b"\x89PNG the bytes of a picture"


@pytest.fixture
def image(farm: WebFarm) -> str:
    """The id of a finished picture of the owner's."""
    return render(farm, submit(farm)["id"], PICTURE)


def test_a_picture_is_shown_with_the_facts_of_its_making(farm: WebFarm, image: str):
    view = farm.get(f"/images/{image}").get_json()
    assert view["sha256"] == hashlib.sha256(PICTURE).hexdigest()
    assert view["url"] == f"{API}/images/{image}/content"
    assert (view["seed"], view["width"], view["height"], view["starred"]) == (7, 64, 64, False)
    assert "object_key" not in json.dumps(view)
    assert farm.get("/images").get_json()["items"][0]["id"] == image


def test_the_bytes_come_from_the_store_for_a_while(farm: WebFarm, image: str):
    answer = farm.get(f"/images/{image}/content")
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(farm.services.store_origin)
    fetched = httpx.get(answer.headers["Location"])
    assert fetched.content == PICTURE
    assert fetched.headers["Content-Type"] == "image/png"
    assert "max-age=150" in answer.headers["Cache-Control"]
    saved = httpx.get(farm.get(f"/images/{image}/content?download=true").headers["Location"])
    assert saved.headers["Content-Disposition"].startswith("attachment")


def test_the_bytes_come_from_here_where_the_store_is_out_of_reach(farm: WebFarm, image: str):
    answer = farm.get(f"/images/{image}/content?stream=true")
    assert answer.status_code == 200
    assert answer.data == PICTURE
    assert answer.mimetype == "image/png"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    etag = answer.headers["ETag"]
    again = farm.get(f"/images/{image}/content?stream=true", headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    saved = farm.get(f"/images/{image}/content?stream=true&download=true")
    assert saved.headers["Content-Disposition"] == f'attachment; filename="{image}.png"'


def test_metadata_is_told_in_both_languages(farm: WebFarm, image: str):
    found = farm.get(f"/images/{image}/metadata").get_json()
    assert found["info"]["prompt"] == "a fox"
    assert "Steps: 4" in found["parameters"]


def test_a_picture_can_be_starred(farm: WebFarm, image: str):
    assert farm.request("PATCH", f"/images/{image}", json={"starred": True}).get_json()["starred"] is True
    assert farm.get("/images?starred=true").get_json()["items"][0]["id"] == image
    assert farm.get("/images?starred=false").get_json()["items"] == []
    wrong = farm.request("PATCH", f"/images/{image}", json={"starred": "yes"})
    assert wrong.status_code == 422
    assert wrong.get_json()["errors"][0]["pointer"] == "/starred"


def test_a_picture_can_be_deleted(farm: WebFarm, image: str):
    assert farm.request("DELETE", f"/images/{image}").status_code == 204
    for path in (f"/images/{image}", f"/images/{image}/content", f"/images/{image}/metadata"):
        assert farm.get(path).status_code == 404
    assert farm.get("/images").get_json()["items"] == []


def test_pictures_are_filtered_and_paged(farm: WebFarm):
    jobs = [submit(farm, prompt=prompt)["id"] for prompt in ("a red fox", "an owl", "a red house")]
    images = [render(farm, job, job.encode()) for job in jobs]
    first = farm.get("/images?limit=2").get_json()
    rest = farm.get(f"/images?limit=2&cursor={first['next_cursor']}").get_json()
    assert {item["id"] for item in first["items"] + rest["items"]} == set(images)
    assert [item["id"] for item in farm.get(f"/images?job={jobs[1]}").get_json()["items"]] == [images[1]]
    assert {item["id"] for item in farm.get("/images?q=red").get_json()["items"]} == {images[0], images[2]}
    assert farm.get("/images?q=100%25").get_json()["items"] == []
    assert farm.get("/images?starred=maybe").status_code == 422


def _png(**texts: str) -> bytes:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_a_dropped_png_tells_how_it_was_made(farm: WebFarm):
    text = (
        "a fox <lora:ink:0.8>\nNegative prompt: blurry\n"
        "Steps: 12, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 42, Size: 64x96"
    )
    for options in (
        {"data": _png(parameters=text), "content_type": "image/png"},
        {"data": {"file": (io.BytesIO(_png(parameters=text)), "a.png")}},
    ):
        spec = farm.post("/images:inspect", **options).get_json()["spec"]
        assert spec["prompt"] == "a fox <lora:ink:0.8>"
        assert (spec["steps"], spec["seed"], spec["width"], spec["height"]) == (12, 42, 64, 96)
        assert spec["sampler"] == "dpmpp_2m_karras"


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", _png()[:60], _png(), b"\x89PNG\r\n\x1a\n" + b"\xff" * 64, b"<svg/>"],
)
def test_a_picture_that_tells_nothing_is_refused(farm: WebFarm, data: bytes):
    answer = farm.post("/images:inspect", data=data, content_type="image/png")
    assert answer.status_code == 422
    assert answer.get_json()["detail"]
