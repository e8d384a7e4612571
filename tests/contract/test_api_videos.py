"""Videos over HTTP: asked for, refused where the model makes pictures, downloaded whole or in parts, shown on pages."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import httpx
import pytest

from farm.jobs import models
from tests.contract.test_api_jobs import submit
from tests.support.web import API, DEFAULTS, NOW, STILL, WebFarm, model_info, render

FILM = bytes(range(256)) * 40


@pytest.fixture
def farm(farm: WebFarm) -> WebFarm:
    """With a second model, which makes videos (its configs are no matter here)."""
    info = replace(model_info("film"), defaults={**DEFAULTS, "frames": 17, "fps": 16.0})
    with farm.services.sessions.begin() as session:
        models.register_model(
            session, farm.owner_id, name="film", info=info, sha256="e" * 64, now=NOW,
            manifest=[{"path": "unet/config.json", "sha256": "b" * 64, "size": 10}],
        )  # fmt: skip
    return farm


@pytest.fixture
def video(farm: WebFarm) -> str:
    """The id of a finished video of the owner's."""
    return render(farm, submit(farm, model="film", frames=5)["id"], FILM, video=(5, 16.0))


def refused(farm: WebFarm, **spec: Any) -> dict[str, str]:
    answer = farm.post("/jobs", {"prompt": "a fox", **spec})
    assert answer.status_code == 422, answer.text
    return {
        problem["pointer"]: f"{problem['message']}; {problem['hint']}"
        for problem in answer.get_json()["errors"]
    }


def test_a_video_has_the_models_frames_unless_told_otherwise(farm: WebFarm) -> None:
    job = submit(farm, model="film")
    assert (job["frames"], job["fps"]) == (17, 16.0)
    job = submit(farm, model="film", frames=9, fps=8)
    assert (job["frames"], job["fps"]) == (9, 8.0)


def test_a_model_of_pictures_refuses_frames_in_one_sentence(farm: WebFarm) -> None:
    job = submit(farm, model="demo")
    assert (job["frames"], job["fps"]) == (None, None)
    assert refused(farm, model="demo", frames=9) == {
        "/frames": "frames: demo makes pictures, not videos; leave frames out, or choose a model that makes videos"
    }
    assert "/fps" in refused(farm, model="demo", fps=8)


@pytest.mark.parametrize(("field", "value"), [("frames", 0), ("frames", 258), ("fps", 0.5), ("fps", 121)])
def test_frames_have_bounds(farm: WebFarm, field: str, value: float) -> None:
    assert list(refused(farm, model="film", **{field: value})) == [f"/{field}"]


def test_frames_come_from_csv(farm: WebFarm) -> None:
    answer = farm.post(
        "/batches", data="prompt,model,frames,fps\na fox,film,9,12.5\n", content_type="text/csv"
    )
    assert answer.status_code == 202, answer.text
    (job,) = farm.get(f"/jobs?batch={answer.get_json()['id']}").get_json()["items"]
    assert (job["frames"], job["fps"]) == (9, 12.5)


def test_a_video_is_shown_with_its_facts(farm: WebFarm, video: str) -> None:
    view = farm.get(f"/images/{video}").get_json()
    facts = {name: view[name] for name in ("media_type", "frames", "fps", "duration", "poster")}
    assert facts == {
        "media_type": "video/webm", "frames": 5, "fps": 16.0, "duration": 0.312,
        "poster": f"{API}/images/{video}/poster",
    }  # fmt: skip
    (image,) = farm.get(f"/jobs/{view['job']}").get_json()["images"]
    assert {name: image[name] for name in facts} == facts
    picture = farm.get(f"/images/{render(farm, submit(farm)['id'])}").get_json()
    assert (picture["media_type"], picture["frames"], picture["duration"], picture["poster"]) == (
        "image/png", 1, None, None,
    )  # fmt: skip


def test_the_store_gives_it_with_its_type_name_and_parts(farm: WebFarm, video: str) -> None:
    where = farm.get(f"/images/{video}/content?download=true").headers["Location"]
    whole = httpx.get(where)
    assert (whole.content, whole.headers["Content-Type"]) == (FILM, "video/webm")
    assert f'filename="{video}.webm"' in whole.headers["Content-Disposition"]
    part = httpx.get(where, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, FILM[100:200])
    still = farm.get(f"/images/{video}/poster")
    assert httpx.get(still.headers["Location"]).content == STILL


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("bytes=0-", 0, len(FILM)), ("bytes=100-199", 100, 200), ("bytes=-7", len(FILM) - 7, len(FILM)),
     ("bytes=9000-99999", 9000, len(FILM))],
)  # fmt: skip
def test_the_farm_gives_parts_itself(farm: WebFarm, video: str, asked: str, begin: int, end: int) -> None:
    answer = farm.get(f"/images/{video}/content?stream=true", headers={"Range": asked})
    assert (answer.status_code, answer.data) == (206, FILM[begin:end])
    assert answer.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(FILM)}"
    assert answer.headers["Content-Length"] == str(end - begin)
    assert answer.mimetype == "video/webm"


def test_what_is_no_part_is_answered_as_the_standard_says(farm: WebFarm, video: str) -> None:
    path = f"/images/{video}/content?stream=true"
    whole = farm.get(path)
    assert (whole.status_code, whole.data, whole.headers["Accept-Ranges"]) == (200, FILM, "bytes")
    etag = whole.headers["ETag"]
    assert etag == f'"{hashlib.sha256(FILM).hexdigest()}"'
    assert farm.get(path, headers={"If-None-Match": etag}).status_code == 304
    for ignored in ("bytes=0-1,5-6", "pages=1-2", "nonsense"):
        assert farm.get(path, headers={"Range": ignored}).data == FILM
    behind = farm.get(path, headers={"Range": "bytes=999999-"})
    assert (behind.status_code, behind.headers["Content-Range"]) == (416, f"bytes */{len(FILM)}")
    assert behind.get_json()["code"] == "bad_range"
    part = {"Range": "bytes=0-9"}
    assert farm.get(path, headers={**part, "If-Range": etag}).data == FILM[:10]
    assert farm.get(path, headers={**part, "If-Range": '"another"'}).data == FILM
    head = farm.request("HEAD", path)
    assert (head.status_code, head.headers["Content-Length"], head.data) == (200, str(len(FILM)), b"")


def test_a_video_of_others_is_not_there(farm: WebFarm, video: str) -> None:
    for path in ("content", "poster"):
        assert farm.get(f"/images/{video}/{path}", key=farm.stranger_key).status_code == 404


def test_a_picture_has_no_still(farm: WebFarm) -> None:
    answer = farm.get(f"/images/{render(farm, submit(farm)['id'])}/poster")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "no_poster")


def test_pages_show_it_as_a_video(farm: WebFarm, video: str) -> None:
    browser = farm.browser()
    job = farm.get(f"/images/{video}").get_json()["job"]
    for path in (f"/images/{video}", f"/jobs/{job}"):
        page = browser.get(path)
        (tag,) = [piece.split(">")[0] for piece in page.text.split("<video")[1:]]
        assert {"controls", "loop", "muted", "playsinline"} <= set(tag.split())
        assert f'poster="{API}/images/{video}/poster"' in tag
        assert "media-src 'self' " + farm.services.store_origin in page.headers["Content-Security-Policy"]
    card = browser.get("/gallery").text.split("<video")[1].split(">")[0]
    assert "controls" not in card
    assert "data-film" in card
