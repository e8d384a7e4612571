"""Strength as a function of the step: points that hold, switch or ramp, written as `0.1@1,0.6~50%`.

Where the language leaves room, this module decides:

- A decimal with "." between 0.0 and 1.0 is a fraction of the run, also beside whole numbers.
- Whole numbers are fractions too when no position of the curve exceeds 1 (`0@0,1@1`). A percentage is no such
  number: in `0@1,1@100%` the 1 is step 1.
- In a tag of kind `loractl` every number of a curve whose largest position exceeds 1 is a step, 2.5 and 0.5 too.
- Positions rise strictly where they are written in one unit. Mixed units are compared once the number of steps is known.
- A bare number may come first among several points; it holds from the beginning: `0.2,0.8@10`.
- Linear reading (kind `loractl`, or the setting): every point is a ramp and whole numbers count from 0. The
  setting concerns curves that contain an `@`; a curve of `~` alone already says what it means.
- Positions are computed exactly, so that 7% of 101 steps is step 8, never a step later by rounding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

from farm.prompt.mistakes import Mistake, shown
from farm.prompt.numbers import format_number, read_strength

Unit = Literal["step", "fraction", "percent"]

MOST_POINTS = 256
_MOST_STEP = 1_000_000
_POSITION = re.compile(r"[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")
_HINT = "write a step (6), a fraction of the run (0.5) or a percentage (50%)"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a run; what it means depends on the number of steps."""

    value: float
    unit: Unit

    def stands_at(self, steps: int, *, zero_based: bool = False) -> Fraction:
        """Return the step, counted from 1 and not necessarily whole, at which this stands in a run of `steps`.

        >>> Position(0.5, "fraction").stands_at(20)
        Fraction(21, 2)
        """
        exact = Fraction(repr(self.value))
        if self.unit == "step":
            return exact + 1 if zero_based else exact
        return 1 + (exact if self.unit == "fraction" else exact / 100) * (steps - 1)

    def __str__(self) -> str:
        text = format_number(self.value)
        if self.unit == "percent":
            return f"{text}%"
        return f"{text}.0" if self.unit == "fraction" and "." not in text else text


def read_position(text: str, *, any_decimal: bool = False) -> Position:
    """Return the position that `text` writes. A whole number is taken for a step, 0 included.

    With `any_decimal`, decimals beyond 1 are steps too, as in loractl.

    >>> str(read_position("6")), str(read_position("1.0")), str(read_position("12.5%"))
    ('6', '1.0', '12.5%')

    Raises:
        Mistake: no position, or out of range.
    """
    text = text.strip()
    percent = text.endswith("%")
    number = text[:-1].rstrip() if percent else text
    if not _POSITION.fullmatch(number):
        raise Mistake("bad_position", f"position {shown(text)} is none", _HINT)
    value = float(number)
    if percent:
        if value > 100:
            raise Mistake("bad_position", f"position {shown(text)} is beyond the run", "write 0% to 100%")
        return Position(value, "percent")
    if "." in number and value <= 1:
        return Position(value, "fraction")
    if "." in number and not any_decimal:
        raise Mistake(
            "bad_position",
            f"position {shown(text)} is neither a whole step nor a fraction from 0.0 to 1.0",
            _HINT,
        )
    if value > _MOST_STEP:
        raise Mistake("bad_position", f"position {shown(text)} is beyond any run", _HINT)
    return Position(value, "step")


@dataclass(frozen=True, slots=True)
class Point:
    """One strength of a curve, and from where it holds; `at` None: from the beginning."""

    strength: float
    at: Position | None = None
    #: arrive here linearly from the point before, instead of switching
    ramp: bool = False

    def __str__(self) -> str:
        strength = format_number(self.strength)
        return strength if self.at is None else f"{strength}{'~' if self.ramp else '@'}{self.at}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A strength for every step of a run of any length."""

    points: tuple[Point, ...]

    @classmethod
    def constant(cls, strength: float) -> Curve:
        return cls((Point(strength),))

    @classmethod
    def parse(cls, text: str, *, loractl: bool = False) -> Curve:
        """Read a curve.

        >>> Curve.parse("0.1@1, 0.6@6").values(8)
        (0.1, 0.1, 0.1, 0.1, 0.1, 0.6, 0.6, 0.6)
        >>> str(Curve.parse("0@0;1@1"))
        '0@0.0,1@1.0'

        Raises:
            Mistake: says which point does not parse.
        """
        parts = text.replace(";", ",").split(",")
        if len(parts) > MOST_POINTS:
            raise Mistake(
                "bad_curve", f"a curve of {len(parts)} points", f"a curve has at most {MOST_POINTS} points"
            )
        points = _in_one_unit(
            [_read_point(part, first=not number, any_decimal=loractl) for number, part in enumerate(parts)],
            loractl=loractl,
        )
        _check_rising(points)
        return cls(tuple(points))

    @property
    def is_constant(self) -> bool:
        """Whether every run has one strength throughout."""
        return len({point.strength for point in self.points}) == 1

    def values(self, steps: int, *, linear: bool = False, zero_based: bool = False) -> tuple[float, ...]:
        """Return the strength at each of `steps` steps.

        `linear` makes every `@` a ramp with whole numbers counted from 0, in curves that have an `@`;
        `zero_based` does so in all curves (kind `loractl`).

        >>> Curve.parse("0@1,1~5").values(6)
        (0.0, 0.25, 0.5, 0.75, 1.0, 1.0)
        >>> Curve.parse("0@0,1@4").values(6, linear=True)
        (0.0, 0.25, 0.5, 0.75, 1.0, 1.0)

        Raises:
            Mistake: a position that means nothing in a run of this length.
        """
        points = self.points
        if len(points) == 1:
            return (points[0].strength,) * steps
        ramps = zero_based or (linear and any(point.at is not None and not point.ramp for point in points))
        places = self._places(steps, zero_based=ramps)
        first_steps = [ceil(place) for place in places]
        values: list[float] = []
        reached, last = 0, len(points) - 1
        for step in range(1, steps + 1):
            while reached < last and first_steps[reached + 1] <= step:
                reached += 1
            value = points[reached].strength
            following = points[min(reached + 1, last)]
            if reached < last and step >= first_steps[0] and (ramps or following.ramp):
                begin, end = float(places[reached]), float(places[reached + 1])
                value += (following.strength - value) * ((step - begin) / (end - begin))
            values.append(value)
        return tuple(values)

    def _places(self, steps: int, *, zero_based: bool) -> list[Fraction]:
        places: list[Fraction] = []
        for number, point in enumerate(self.points):
            at = point.at
            if at is not None and at.unit == "step" and at.value < 1 and not zero_based:
                raise Mistake(
                    "bad_position",
                    f"position {at} in {shown(str(point))}: steps count from 1",
                    "write 1 or 0.0 for the beginning, or <loractl:…> to count from 0",
                )
            place = Fraction(1) if at is None else at.stands_at(steps, zero_based=zero_based)
            if places and (place < places[-1] or (place == places[-1] and steps > 1)):
                raise Mistake(
                    "positions_do_not_rise",
                    f"{shown(str(point))} does not stand after {shown(str(self.points[number - 1]))} "
                    f"in a run of {steps} steps",
                    "let positions rise, best in one unit",
                )
            places.append(place)
        return places

    def __str__(self) -> str:
        return ",".join(map(str, self.points))


def _read_point(part: str, *, first: bool, any_decimal: bool) -> Point:
    text = part.strip()
    if not text:
        raise Mistake("bad_curve", "a point of the curve is empty", "write strength@position, such as 0.6@6")
    mark = next((sign for sign in "@~" if sign in text), "")
    strength, _, position = text.partition(mark) if mark else (text, "", "")
    value = read_strength(strength)
    if not mark:
        if not first:
            raise Mistake(
                "bad_curve",
                f"{shown(text)} names no position",
                f"write {text}@position; only the first point of a curve may do without",
            )
        return Point(value)
    return Point(value, read_position(position, any_decimal=any_decimal), mark == "~")


def _in_one_unit(points: list[Point], *, loractl: bool) -> list[Point]:
    """Whole numbers are fractions of the run when no position of the curve exceeds 1; else loractl has steps only."""
    places = [point.at for point in points if point.at is not None]
    if any(at.unit == "percent" for at in places):
        return points
    unit: Unit = "fraction"
    if any(at.value > 1 for at in places):
        if not loractl:
            return points
        unit = "step"
    return [
        Point(point.strength, Position(point.at.value, unit), point.ramp) if point.at else point
        for point in points
    ]


def _check_rising(points: Sequence[Point]) -> None:
    """Refuse positions of one unit that do not rise; a run's length decides about the others."""
    last: dict[Unit, Point] = {}
    for point in points:
        if point.at is None:
            continue
        before = last.get(point.at.unit)
        if before is not None and before.at is not None and point.at.value <= before.at.value:
            raise Mistake(
                "positions_do_not_rise",
                f"positions do not rise: {shown(str(point))} follows {shown(str(before))}",
                "write the points in the order of their positions",
            )
        last[point.at.unit] = point
