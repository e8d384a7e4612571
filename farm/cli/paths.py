"""Files named on the command line: that they exist, and `FILE[:STRENGTH]` taken apart."""

from __future__ import annotations

from pathlib import Path

from farm.errors import BadRequest


def existing(path: Path) -> Path:
    if not path.exists():
        raise BadRequest(f"{path} does not exist", "check the path", code="no_such_file")
    return path


def file_and_strength(text: str) -> tuple[Path, float]:
    """`ink.safetensors:0.8` as path and strength; the strength is 1 when absent.

    Raises:
        BadRequest: the strength is no number, or the file does not exist.
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return existing(Path(text)), 1.0
    try:
        return existing(Path(path)), float(number)
    except ValueError:
        raise BadRequest(
            f"--lora {text}: {number!r} is no strength", "write FILE:0.8", code="bad_strength"
        ) from None
