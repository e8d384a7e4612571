"""Names of adapters: what a tag can hold."""

from __future__ import annotations

import re

from farm.errors import BadRequest

MAX_NAME = 100


def adapter_name(name: str, file_name: str) -> str:
    """A name that a tag can hold: what was given, else the file's name without its ending.

    >>> adapter_name("", "C:\\\\loras\\\\Ink Wash.safetensors"), adapter_name(" ink ", "x.safetensors")
    ('Ink Wash', 'ink')

    Raises:
        BadRequest: no name is left, it is too long, or holds characters that end a tag.
    """
    plain = name.strip() or re.sub(r"\.[A-Za-z0-9]{1,12}\Z", "", re.split(r"[/\\]", file_name)[-1]).strip()
    if not plain:
        raise BadRequest("the adapter needs a name", "send `name`", code="bad_name")
    if len(plain) > MAX_NAME:
        raise BadRequest(f"the name has {len(plain)} characters", f"use at most {MAX_NAME}", code="bad_name")
    if wrong := re.search(r"[<>:|/\\\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069]", plain):
        raise BadRequest(
            f"a name cannot hold {wrong.group()!r}",
            "use letters, digits, spaces, dots, dashes",
            code="bad_name",
        )
    return plain
