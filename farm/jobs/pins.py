"""Pins: what a job demands of the worker that renders it, its tags and its memory, and how people write and read them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from farm.errors import BadRequest

#: of a job or a worker
MAX_TAGS = 8
#: bytes: less is a unit left out, more is no device
LEAST_MEMORY, MOST_MEMORY = 10**6, 10**15

_TAG = re.compile(r"[a-z0-9][a-z0-9._:-]{0,31}")
_MEMORY = re.compile(r"(\d{1,16}(?:\.\d{1,6})?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def is_tag(text: str) -> bool:
    """Whether `text` can be a worker's tag: small letters, digits, `. _ : -`, at most 32.

    >>> is_tag("a100"), is_tag("studio-2"), is_tag("A 100"), is_tag("")
    (True, True, False, False)
    """
    return _TAG.fullmatch(text) is not None


def cut_tags(text: str) -> list[str]:
    """Tags that stand in one text, parted by blanks or commas; whether they are tags is not asked.

    >>> cut_tags("a100, Studio  x")
    ['a100', 'studio', 'x']
    """
    return text.lower().replace(",", " ").split()


def parse_tags(text: str) -> tuple[str, ...]:
    """A worker's own tags, as in its setting.

    Raises:
        BadRequest: one is no tag, or there are too many.
    """
    tags = tuple(dict.fromkeys(cut_tags(text)))
    for tag in tags:
        if not is_tag(tag):
            raise BadRequest(f"{tag!r} is no tag of a worker", TAG_HINT, code="bad_tag")
    if len(tags) > MAX_TAGS:
        raise BadRequest(
            f"{len(tags)} tags are too many for a worker", f"give at most {MAX_TAGS}", code="bad_tag"
        )
    return tags


TAG_HINT = (
    "a tag has up to 32 small letters, digits, '.', '_', ':' or '-', and begins with one of the former two"
)


def parse_memory(value: int | str) -> int:
    """Bytes of memory, from bytes or from a text such as `24GB` (10^9) or `24GiB` (2^30).

    >>> parse_memory("24GB"), parse_memory("1.5 GiB"), parse_memory(8_000_000_000)
    (24000000000, 1610612736, 8000000000)

    Raises:
        BadRequest: it is no amount of memory that a device could have.
    """
    if isinstance(value, str):
        found = _MEMORY.fullmatch(value.strip())
        if found is None:
            raise BadRequest(
                f"{value[:40]!r} is no amount of memory",
                "give bytes, or a text such as '24GB'",
                code="bad_memory",
            )
        number, unit, binary = found.groups(default="")
        base = 1024.0 if binary else 1000.0
        count = float(number) * base ** _POWERS[unit.lower()]
    else:
        count = float(value)
    if not LEAST_MEMORY <= count <= MOST_MEMORY:
        raise BadRequest(
            f"{value} is {count:.0f} bytes, which no worker is judged by",
            "give 1MB to 1000TB, such as '24GB'",
            code="bad_memory",
        )
    return round(count)


def memory_text(count: int) -> str:
    """Bytes as `parse_memory` reads them, as short as they can be told exactly.

    >>> memory_text(24_000_000_000), memory_text(24 * 2**30), memory_text(1_500_000_001)
    ('24GB', '24GiB', '1500000001')
    """
    for power, letter in ((4, "T"), (3, "G"), (2, "M")):
        for base, binary in ((1000, ""), (1024, "i")):
            if count >= base**power and count * 10 % base**power == 0:
                return f"{count / base**power:g}{letter}{binary}B"
    return str(count)


def met(memory_bytes: int, tags: Collection[str], *, has_memory: int, has_tags: Collection[str]) -> bool:
    """Whether a worker meets the pins of a job; one that told no memory is taken to have enough."""
    return (not memory_bytes or not has_memory or has_memory >= memory_bytes) and all(
        tag in has_tags for tag in tags
    )


def in_words(memory_bytes: int, tags: Iterable[str]) -> str:
    """What a worker must have, to stand behind "worker"; empty without pins.

    >>> in_words(24_000_000_000, []), in_words(0, ["b", "a100"]), in_words(24 * 2**30, ["a100"])
    ('with 24 GB', 'tagged a100 and b', 'with 25.8 GB tagged a100')
    """
    words = [f"with {_amount(memory_bytes)}"] if memory_bytes else []
    if known := sorted(set(tags)):
        words.append("tagged " + ", ".join(known[:-1]) + (" and " if known[1:] else "") + known[-1])
    return " ".join(words)


def nobody(memory_bytes: int, tags: Iterable[str]) -> str:
    """The sentence of a job whose pins no worker meets.

    >>> nobody(24_000_000_000, ())
    'no worker with 24 GB is up'
    """
    return f"no worker {in_words(memory_bytes, tags)} is up"


def _amount(count: int) -> str:
    unit, name = (10**9, "GB") if count >= 10**9 else (10**6, "MB")
    return f"{round(count / unit, 1):g} {name}"
