"""Numbers of the tag language: strengths, counts, and how they are written."""

from __future__ import annotations

import re
from decimal import Decimal

from farm.prompt.mistakes import Mistake, shown

#: No adapter is meant to be applied more strongly than this, in either direction.
MOST_STRENGTH = 1000.0
_LONGEST = 40
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_NOT_FINITE = frozenset({"nan", "inf", "infinity"})


def read_strength(text: str, what: str = "strength") -> float:
    """Return the finite number that `text` is, at most 1000 in size. Blanks around it do not matter.

    >>> read_strength(" -0.5 "), read_strength("1e-3")
    (-0.5, 0.001)

    Raises:
        Mistake: no number, not finite, or too large.
    """
    text = text.strip()
    if text.lstrip("+-").casefold() in _NOT_FINITE:
        raise Mistake("bad_number", f"{what} {shown(text)} is not finite", "write a number such as 0.8")
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        raise Mistake("bad_number", f"{what} {shown(text)} is not a number", "write a number such as 0.8")
    value = float(text)
    if abs(value) > MOST_STRENGTH:
        raise Mistake(
            "strength_too_large",
            f"{what} {shown(text)} is out of range",
            f"write a number between -{MOST_STRENGTH:g} and {MOST_STRENGTH:g}; most adapters want 0 to 1.5",
        )
    return value + 0.0  # "-0" means 0


def read_count(text: str, what: str, *, least: int, most: int) -> int:
    """Return the whole number that `text` is, within `least` … `most`.

    >>> read_count("8", "dyn", least=1, most=4096)
    8

    Raises:
        Mistake: no whole number, or out of range.
    """
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise Mistake(
            "bad_number",
            f"{what} {shown(text)} is not a whole number between {least} and {most}",
            f"write {what} as {least} … {most}, such as {max(least, 8)}",
        )
    return int(text)


def format_number(value: float) -> str:
    """Return a short text that reads as `value`.

    >>> format_number(1.0), format_number(0.25), format_number(1e-7), format_number(1e-99)
    ('1', '0.25', '0.0000001', '1e-99')
    """
    text = format(Decimal(repr(value)), "f")
    if len(text) > _LONGEST:
        return repr(value)
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
