"""Curves: reading, writing, and values against a slow reference."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from farm.prompt.curves import Curve, Point, Position
from farm.prompt.mistakes import Mistake

STRENGTHS = st.floats(-1000, 1000).map(lambda value: value + 0.0)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """Curves as a person may write them: rising in one unit, or a constant."""
    unit = draw(st.sampled_from(["step", "fraction", "percent", "none"]))
    if unit == "none":
        return Curve.constant(draw(STRENGTHS))
    numbers = {
        "step": st.integers(1, 60).map(float),
        "fraction": st.integers(0, 1000).map(lambda number: number / 1000),
        "percent": st.integers(0, 200).map(lambda number: number / 2),
    }[unit]
    places = sorted(draw(st.sets(numbers, min_size=1, max_size=6)))
    assume(unit != "step" or places[-1] > 1)
    points = [
        Point(draw(STRENGTHS), Position(place, unit), draw(st.booleans()))  # type: ignore[arg-type]
        for place in places
    ]
    if draw(st.booleans()) and not (unit != "step" and places[0] == 0) and places[0] != 1:
        points.insert(0, Point(draw(STRENGTHS)))
    return Curve(tuple(points))


@given(curves())
def test_written_and_read_again_is_the_same(curve: Curve) -> None:
    assert Curve.parse(str(curve)) == curve


def slow_value(curve: Curve, step: int, steps: int, *, linear: bool) -> float:
    """The same rule in the words of the design, with decimals and a search from the end for each step."""
    all_ramps = linear and "@" in str(curve)

    def stands(point: Point) -> Decimal:
        if point.at is None:
            return Decimal(1)
        number = Decimal(str(point.at).rstrip("%"))
        if point.at.unit == "percent":
            return 1 + number * (steps - 1) / 100
        if point.at.unit == "fraction":
            return 1 + number * (steps - 1)
        return number + 1 if all_ramps else number

    behind = [point for point in curve.points if stands(point) <= step]
    ahead = [point for point in curve.points if stands(point) > step]
    if not behind:
        return ahead[0].strength
    if ahead and (all_ramps or ahead[0].ramp):
        begin, end = stands(behind[-1]), stands(ahead[0])
        way = (step - begin) / (end - begin)
        return float(Decimal(behind[-1].strength) * (1 - way) + Decimal(ahead[0].strength) * way)
    return behind[-1].strength


@given(curves(), st.integers(1, 40), st.booleans())
def test_values_equal_the_slow_reference(curve: Curve, steps: int, linear: bool) -> None:
    values = curve.values(steps, linear=linear)
    assert len(values) == steps
    for step, value in enumerate(values, start=1):
        assert value == pytest.approx(slow_value(curve, step, steps, linear=linear), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [
        ("0.8", 3, (0.8, 0.8, 0.8)),
        ("0.8@5", 3, (0.8, 0.8, 0.8)),
        ("0.2,0.8@3", 4, (0.2, 0.2, 0.8, 0.8)),
        ("0@1,1~3", 4, (0.0, 0.5, 1.0, 1.0)),
        ("0@1,1@50%", 5, (0.0, 0.0, 1.0, 1.0, 1.0)),
        ("0@1,1@50%", 6, (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)),
        ("0@1,1@0.5", 5, None),
        ("0@0.0,1@1.0", 4, (0.0, 0.0, 0.0, 1.0)),
        ("0@0,1@1", 1, (1.0,)),
        ("0@1,1@100%", 3, (0.0, 0.0, 1.0)),
        ("1@1,0@30", 3, (1.0, 1.0, 1.0)),
        (" 0.1 @ 1 ; 0.6 @ 2 ", 2, (0.1, 0.6)),
        ("0@0.5,1@9", 9, (0.0,) * 8 + (1.0,)),
    ],
)
def test_examples(text: str, steps: int, expected: tuple[float, ...] | None) -> None:
    if expected is None:
        with pytest.raises(Mistake, match="do not rise"):
            Curve.parse(text)
    else:
        assert Curve.parse(text).values(steps) == expected


def test_fractions_are_exact() -> None:
    """0.07 of 100 steps further is step 8, though 0.07 * 100 is more than 7 in binary numbers."""
    values = Curve.parse("0@0.0,1@0.07").values(101)
    assert values[6:8] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("0.5,", "empty"),
        ("0.5@", "position ''"),
        ("@5", "strength ''"),
        ("0.5@x", "position 'x'"),
        ("0.5@-1", "position '-1'"),
        ("0.5@2.5", "neither a whole step"),
        ("0.5@101%", "beyond the run"),
        ("0.5@99999999", "beyond any run"),
        ("0.5@1@2", "position"),
        ("0.5@3,0.6", "names no position"),
        ("0.5@3,0.6@3", "do not rise"),
        ("0.5@3,0.6@2", "do not rise"),
        ("nan", "not finite"),
        ("-inf", "not finite"),
        ("1e999", "out of range"),
        ("1000.1", "out of range"),
        ("٣", "not a number"),
        ("0x10", "not a number"),
        ("1_0", "not a number"),
        ("9" * 5000, "not a number"),
        (",".join(["1@1"] * 300), "300 points"),
    ],
)
def test_mistakes_say_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(Mistake) as found:
        Curve.parse(text)
    assert words in found.value.message
    assert found.value.hint
    assert len(found.value.message) < 300


def test_units_that_contradict_in_a_short_run() -> None:
    curve = Curve.parse("0@5,1@50%")
    assert curve.values(20)[:11] == (0.0,) * 10 + (1.0,)
    with pytest.raises(Mistake, match="in a run of 8 steps"):
        curve.values(8)
