"""What a video model makes: pictures in a row and how fast they are shown."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Clip:
    """One video: frames of equal size, `fps` of them a second."""

    frames: tuple[Image.Image, ...]
    fps: float
