"""Clips become files that a decoder of another project reads back: frames, size, speed, colours and what they say."""

from __future__ import annotations

import json
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image

from farm.jobs.metadata import a1111_text, video_texts
from farm.models.clip import Clip
from farm.worker.video import encode_still, encode_webm
from tests.unit.jobs.test_metadata import INFO

MADE = {**INFO, "frames": 9, "fps": 16.0}


def clip(count: int = 9, size: tuple[int, int] = (96, 64), fps: float = 16.0) -> Clip:
    """Half of each frame is red, the other gets greener with every frame."""
    frames = []
    for number in range(count):
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[:, : size[0] // 2] = (200, 30, 40)
        pixels[:, size[0] // 2 :] = (20, 25 * number, 60)
        frames.append(Image.fromarray(pixels))
    return Clip(frames=tuple(frames), fps=fps)


@pytest.mark.parametrize(("size", "fps"), [((96, 64), 16.0), ((66, 50), 23.976), ((64, 64), 8.0)])
def test_what_is_encoded_is_decoded(size: tuple[int, int], fps: float) -> None:
    made = clip(size=size, fps=fps)
    with av.open(BytesIO(encode_webm(made, {})), format="matroska") as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("vp9", "yuv420p")
        assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-3)
        decoded = [frame.to_image() for frame in container.decode(video=0)]
    assert len(decoded) == len(made.frames)
    for got, wanted in zip(decoded, made.frames, strict=True):
        assert got.size == size
        for place in ((8, 8), (size[0] - 8, size[1] - 8)):
            assert np.abs(np.subtract(got.getpixel(place), wanted.getpixel(place))).max() <= 12


def test_a_single_frame_is_a_video_too() -> None:
    with av.open(BytesIO(encode_webm(clip(1), {}))) as container:
        assert len(list(container.decode(video=0))) == 1


def test_the_file_says_how_it_was_made() -> None:
    with av.open(BytesIO(encode_webm(clip(), video_texts(MADE)))) as container:
        said = {name.lower(): text for name, text in container.metadata.items()}
    assert json.loads(said["farm"]) == MADE
    assert said["comment"] == a1111_text(MADE)
    assert "Frames: 9, FPS: 16" in said["comment"]


def test_equal_clips_become_equal_bytes() -> None:
    assert encode_webm(clip(), video_texts(MADE)) == encode_webm(clip(), video_texts(MADE))


def test_a_still_is_a_webp_without_metadata() -> None:
    picture = clip().frames[4]
    picture.info["parameters"] = "a secret"
    data = encode_still(picture)
    with Image.open(BytesIO(data)) as read:
        assert (read.format, read.size) == ("WEBP", (96, 64))
    assert b"secret" not in data
