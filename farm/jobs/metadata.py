"""What a picture knows of its making: our JSON and the usual `parameters` text, written into PNGs and read back safely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from farm.jobs.attempts import JobForWorker

if TYPE_CHECKING:
    from PIL.Image import Image


def image_info(job: JobForWorker, *, index: int, width: int, height: int) -> dict[str, Any]:
    """The JSON of picture `index` (from 0) of `job`: enough to make the same picture again."""
    raise NotImplementedError


def a1111_text(info: Mapping[str, Any]) -> str:
    """`info` as AUTOMATIC1111 and SD.Next write it: prompt, negative prompt, a line of settings."""
    raise NotImplementedError


def encode_png(picture: Image, info: Mapping[str, Any]) -> bytes:
    """`picture` as PNG with `info` in the text chunks `farm` and `parameters`."""
    raise NotImplementedError


def read_png(data: bytes) -> dict[str, Any] | None:
    """Spec fields from the text chunks of a PNG, ours or AUTOMATIC1111's; None when it has neither. No pixel is decoded.

    Raises:
        BadRequest: no PNG, or a damaged or oversized one.
    """
    raise NotImplementedError
