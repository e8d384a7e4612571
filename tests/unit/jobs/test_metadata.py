"""Settings in pictures: written, read back, and hostile files refused within bounds."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from farm.errors import BadRequest
from farm.jobs.metadata import a1111_text, encode_png, read_png
from farm.jobs.png import SIGNATURE, read_texts

INFO = {
    "version": 1,
    "job": "job_1",
    "prompt": "a fox, <lora:ink:0.2@1,0.9@10>",
    "negative_prompt": "blurred",
    "model": {"name": "demo", "family": "demo", "sha256": "ab" * 32},
    "width": 64,
    "height": 64,
    "steps": 20,
    "guidance_scale": 4.5,
    "sampler": "dpmpp_2m_karras",
    "seed": 7,
    "linear_curves": None,
    "networks": [{"name": "ink", "sha256": "cd" * 32, "type": "lora"}],
}


def png(**texts: str) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    buffer = BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_what_is_written_is_read_back() -> None:
    data = encode_png(Image.new("RGB", (64, 64), "blue"), INFO)
    spec = read_png(data)
    assert spec is not None
    assert spec["prompt"] == INFO["prompt"]
    assert (spec["seed"], spec["steps"], spec["sampler"], spec["model"]) == (7, 20, "dpmpp_2m_karras", "demo")
    with Image.open(BytesIO(data)) as picture:
        assert picture.text["parameters"] == a1111_text(INFO)  # type: ignore[attr-defined]


def test_the_usual_text_is_what_other_programs_write() -> None:
    assert a1111_text(INFO).splitlines() == [
        "a fox, <lora:ink:0.2@1,0.9@10>",
        "Negative prompt: blurred",
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 4.5, Seed: 7, Size: 64x64, "
        f'Model hash: {"ab" * 5}, Model: demo, Lora hashes: "ink: {"cd" * 6}", Version: Farm',
    ]


def test_a_picture_of_another_program_is_read() -> None:
    text = (
        "a castle\nNegative prompt: fog\nSteps: 30, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, "
        'Model: dream, Lora hashes: "x: 1, y: 2", Version: v1.10'
    )
    assert read_png(png(parameters=text)) == {
        "prompt": "a castle", "negative_prompt": "fog", "steps": 30, "sampler": "euler_a", "guidance_scale": 7.0,
        "seed": 42, "width": 512, "height": 768, "model": "dream",
    }  # fmt: skip


SECOND_PASS = {"hr_scale": 1.5, "hr_steps": 8, "hr_strength": 0.4}


def test_a_second_pass_is_written_as_hires_fix_and_read_back() -> None:
    info = INFO | SECOND_PASS
    text = a1111_text(info)
    assert "Denoising strength: 0.4, Hires upscale: 1.5, Hires steps: 8, Hires upscaler: Latent" in text
    for data in (encode_png(Image.new("RGB", (8, 8)), info), png(parameters=text)):
        read = read_png(data)
        assert read is not None
        assert {name: read[name] for name in SECOND_PASS} == SECOND_PASS
        assert (read["width"], read["height"]) == (64, 64)


def test_a_denoising_strength_without_hires_fix_is_no_second_pass() -> None:
    read = read_png(png(parameters="a castle\nSteps: 30, Seed: 1, Denoising strength: 0.7, Hires steps: 9"))
    assert read is not None
    assert not {"hr_scale", "hr_steps", "hr_strength"} & set(read)


def test_a_picture_without_settings_gives_nothing() -> None:
    assert read_png(png()) is None


@pytest.mark.parametrize("data", [b"", b"GIF89a", SIGNATURE, png()[:-20], png().replace(b"IDAT", b"IDAX")])
def test_other_files_and_damaged_ones_are_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_png(data)
    assert "PNG" in str(caught.value)


def test_a_text_that_inflates_beyond_the_bound_is_refused() -> None:
    bomb = b"parameters\0\0" + zlib.compress(b"a" * 50_000_000, 9)
    with pytest.raises(BadRequest, match="more than 2 MB"):
        read_texts(SIGNATURE + chunk(b"zTXt", bomb) + chunk(b"IEND", b""))


def test_many_texts_are_refused() -> None:
    many = b"".join(chunk(b"tEXt", b"k%d\0x" % number) for number in range(100))
    with pytest.raises(BadRequest, match="more than 64"):
        read_texts(SIGNATURE + many + chunk(b"IEND", b""))


@given(st.binary(max_size=400))
def test_any_bytes_give_a_result_or_one_refusal(data: bytes) -> None:
    for candidate in (data, SIGNATURE + data, SIGNATURE + chunk(b"iTXt", data) + chunk(b"IEND", b"")):
        with suppress(BadRequest):
            read_png(candidate)
