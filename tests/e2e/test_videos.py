"""Videos in a browser: they play on their page and on cards, with Range and the Content-Security-Policy as in production."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import update

from farm.client.jobs import download_images, wait_for_job
from farm.db.engine import make_engine, make_sessions
from farm.db.models import Image
from farm.jobs.metadata import video_texts
from farm.models.clip import Clip
from farm.store import keys
from farm.store.s3 import connect_store
from farm.worker.video import MEDIA_TYPE, encode_still, encode_webm
from tests.support.farm import RunningFarm

SIZE, FRAMES, FPS = (192, 128), 24, 12.0


def film() -> Clip:
    """A bright square that wanders over a slope of colours."""
    slope = np.linspace(20, 120, SIZE[0], dtype=np.uint8)
    frames = []
    for number in range(FRAMES):
        pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        pixels[..., 2] = slope
        left = 6 * number
        pixels[40:88, left : left + 48] = (235, 150, 60)
        frames.append(Pillow.fromarray(pixels))
    return Clip(frames=tuple(frames), fps=FPS)


@pytest.fixture(scope="module")
def video(farm: RunningFarm) -> dict[str, Any]:
    """The job of a finished video: what a worker with such a model leaves, put in the place of a picture."""
    client, info = farm.client(), farm.info
    job = wait_for_job(
        client, client.submit({"prompt": "a red circle", "steps": 2})["id"], timeout_seconds=120
    )
    (picture,) = job["images"]
    made, s3 = film(), info["s3"]
    facts = {**client.get(f"/images/{picture['id']}")["info"], "frames": FRAMES, "fps": FPS}
    data = encode_webm(made, video_texts(facts))
    store = connect_store(
        endpoint=s3["endpoint"], access_key=s3["access_key"], secret_key=s3["secret_key"], bucket=s3["bucket"]
    )
    film_key, still_key = (keys.result(job["owner"], job["id"], 1, 0, ending) for ending in ("webm", "webp"))
    store.put_bytes(film_key, data, MEDIA_TYPE)
    store.put_bytes(still_key, encode_still(made.frames[FRAMES // 2]), "image/webp")
    store.close()
    engine = make_engine(info["database_url"])
    with make_sessions(engine).begin() as session:
        session.execute(
            update(Image).where(Image.id == picture["id"]).values(
                object_key=film_key, poster_key=still_key, media_type=MEDIA_TYPE, frames=FRAMES, fps=FPS,
                duration=FRAMES / FPS, width=SIZE[0], height=SIZE[1], size=len(data), info=facts,
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )  # fmt: skip
    engine.dispose()
    found: dict[str, Any] = client.get(f"/jobs/{job['id']}")
    return found


def plays(page: Page, selector: str) -> dict[str, Any]:
    """Play the video and say what came of it."""
    found: dict[str, Any] = page.locator(selector).evaluate(
        """async (video) => {
          await video.play();
          await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
          return { ready: video.readyState, width: video.videoWidth, height: video.videoHeight, seconds: video.duration };
        }"""
    )
    return found


@pytest.mark.parametrize("where", ["image", "job"])
def test_a_video_plays_on_its_page_and_on_that_of_its_job(
    page: Page, video: dict[str, Any], where: str
) -> None:
    page.goto(f"/images/{video['images'][0]['id']}" if where == "image" else f"/jobs/{video['id']}")
    expect(page.locator("video.shown")).to_be_visible()
    found = plays(page, "video.shown")
    assert found["ready"] >= 2
    assert (found["width"], found["height"]) == SIZE
    assert found["seconds"] == pytest.approx(FRAMES / FPS, abs=0.1)
    # into what is not loaded yet, too
    page.locator("video.shown").evaluate(
        """(video) => new Promise((resolve) => {
          video.addEventListener("seeked", resolve, { once: true });
          video.currentTime = 1.5;
        })"""
    )


def test_a_card_plays_while_it_is_pointed_at(page: Page, video: dict[str, Any]) -> None:
    page.goto("/gallery")
    card = page.locator(f"#shot-{video['images'][0]['id']}")
    paused = "(video) => video.paused"
    assert card.locator("video").evaluate(paused)
    expect(card.locator(".film-mark")).to_have_text("2.0 s")
    card.hover()
    page.wait_for_function(
        "(video) => !video.paused && video.readyState >= 2", arg=card.locator("video").element_handle()
    )
    page.mouse.move(0, 0)
    page.wait_for_function(paused, arg=card.locator("video").element_handle())
    card.locator("a").focus()
    page.wait_for_function("(video) => !video.paused", arg=card.locator("video").element_handle())


def test_a_card_stays_still_for_who_wants_less_motion(
    browser: Browser, farm: RunningFarm, video: dict[str, Any]
) -> None:
    calm = browser.new_context(base_url=farm.url, reduced_motion="reduce")
    calm.request.get("/login", params={"token": farm.api_key, "next": "/workers"})
    page = calm.new_page()
    page.goto("/gallery")
    card = page.locator(f"#shot-{video['images'][0]['id']}")
    card.hover()
    page.wait_for_timeout(200)
    assert card.locator("video").evaluate("(video) => video.paused")
    calm.close()


def test_a_video_is_downloaded_as_webm(farm: RunningFarm, video: dict[str, Any], tmp_path: Path) -> None:
    (file,) = download_images(farm.client(), video, tmp_path)
    assert file.name == f"{video['id']}_0.webm"
    assert file.read_bytes().startswith(b"\x1a\x45\xdf\xa3")


def test_a_second_pass_is_asked_for_on_create(page: Page, farm: RunningFarm) -> None:
    page.goto("/create")
    page.locator("#prompt").fill("a red circle <lora:ink:0.8:hr=0.2>")
    expect(page.locator("#warnings")).to_contain_text("hr has no effect")
    page.locator("#hires summary").click()
    page.locator("#hr_scale").fill("1.5")
    page.locator("#hr_steps").fill("3")
    page.locator("#steps").fill("2")
    expect(page.locator("#warnings")).not_to_contain_text("no effect")
    expect(page.locator("#hires-word")).to_have_text("96 × 96")
    expect(page.locator("#strip .strip")).to_have_count(2)
    with page.expect_response("**/api/v1/jobs") as answered:
        page.locator("#queue-button").click()
    job = wait_for_job(farm.client(), answered.value.json()["id"], timeout_seconds=120)
    assert job["state"] == "succeeded", job["error"]
    assert (job["total_steps"], job["images"][0]["width"]) == (5, 96)
