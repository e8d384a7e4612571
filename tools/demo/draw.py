"""Draws a subject: `scene` turns it into plain marks, `paint` turns marks into a picture.

Marks are kept apart from painting so that a style (`tools.demo.styles`) can paint the same scene in its own way.
Coordinates run from 0 to 64, whatever the size of the picture.
"""

import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from tools.demo.captions import COLOURS, Subject

SIZE = 64
#: Pictures are drawn this many times larger and then reduced, which smooths their edges.
OVERSAMPLING = 4

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Poly:
    """A filled polygon. `detail` marks are small: styles that draw outlines fill them instead."""

    points: tuple[Point, ...]
    fill: Colour
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Oval:
    """A filled ellipse within a box (left, top, right, bottom)."""

    box: tuple[float, float, float, float]
    fill: Colour
    detail: bool = False


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points, `width` wide."""

    points: tuple[Point, ...]
    width: float
    fill: Colour


@dataclass(frozen=True, slots=True)
class Ground:
    """The background from `top` down to the lower edge, shading from one colour to another; styles may flatten it."""

    top: float
    first: Colour
    last: Colour


Mark = Poly | Oval | Stroke | Ground

SKY = {
    "day": ((122, 186, 242), (196, 226, 248)),
    "sunset": ((96, 70, 140), (244, 140, 84)),
    "night": ((10, 12, 44), (30, 36, 92)),
}
GRASS = {"day": (94, 160, 78), "sunset": (104, 138, 70), "night": (30, 66, 50)}
SEA = {"day": (40, 112, 190), "sunset": (112, 72, 124), "night": (18, 32, 84)}
SUN: Colour = (255, 214, 70)
LOW_SUN: Colour = (255, 108, 66)
MOON: Colour = (246, 240, 214)
DARK: Colour = (34, 28, 30)
BARK: Colour = (122, 82, 48)
LEAF: Colour = (44, 132, 62)


def scene(subject: Subject, rng: Random) -> list[Mark]:
    """Return the marks of `subject`, back to front; `rng` moves things a little."""
    return _SCENES[subject.kind](subject, rng)


def paint(marks: list[Mark], size: int = SIZE) -> Image.Image:
    """Paint marks in their own colours."""
    canvas = size * OVERSAMPLING
    k = canvas / 64
    image = Image.new("RGB", (canvas, canvas))
    pen = ImageDraw.Draw(image)
    for mark in marks:
        match mark:
            case Ground():
                shade(pen, mark, canvas)
            case Poly():
                pen.polygon([(x * k, y * k) for x, y in mark.points], fill=mark.fill)
            case Oval():
                pen.ellipse([v * k for v in mark.box], fill=mark.fill)
            case Stroke():
                pen.line(
                    [(x * k, y * k) for x, y in mark.points], mark.fill, round(mark.width * k), joint="curve"
                )
    return image.resize((size, size), Image.Resampling.LANCZOS)


def shade(pen: ImageDraw.ImageDraw, ground: Ground, canvas: int) -> None:
    """Paint `ground` on a canvas of so many pixels a side."""
    top = round(ground.top * canvas / 64)
    if ground.first == ground.last:
        pen.rectangle((0, top, canvas, canvas), fill=ground.first)
        return
    for y in range(top, canvas):
        f = (y - top) / (canvas - top)
        pen.line(
            ((0, y), (canvas, y)),
            tuple(round(a + (b - a) * f) for a, b in zip(ground.first, ground.last, strict=True)),
        )


def _plain(colour: str) -> Ground:
    return Ground(0, COLOURS[colour], COLOURS[colour])


def _round(points: int, radius: float, inner: float, cx: float, cy: float) -> tuple[Point, ...]:
    """Return a star or regular polygon with one point up."""
    steps = [(radius if i % 2 == 0 else inner, math.pi * i / points) for i in range(2 * points)]
    return tuple((cx + r * math.sin(a), cy - r * math.cos(a)) for r, a in steps)


def _disc(cx: float, cy: float, r: float, fill: Colour, detail: bool = False) -> Oval:
    return Oval((cx - r, cy - r, cx + r, cy + r), fill, detail)


def _box(left: float, top: float, right: float, bottom: float, fill: Colour, detail: bool = False) -> Poly:
    return Poly(((left, top), (right, top), (right, bottom), (left, bottom)), fill, detail)


def _figure(shape: str, cx: float, cy: float, r: float, fill: Colour) -> Mark:
    """Return one of the plain shapes, about as large to the eye as a disc of radius `r`."""
    match shape:
        case "circle":
            return _disc(cx, cy, r, fill)
        case "square":
            return _box(cx - 0.9 * r, cy - 0.9 * r, cx + 0.9 * r, cy + 0.9 * r, fill)
        case "triangle":
            return Poly(((cx, cy - r), (cx + 1.1 * r, cy + 0.9 * r), (cx - 1.1 * r, cy + 0.9 * r)), fill)
        case "star":
            return Poly(_round(5, 1.15 * r, 0.48 * r, cx, cy + 0.1 * r), fill)
        case "cross":
            a, b = 0.36 * r, 1.05 * r
            corner = (
                (-a, -b),
                (a, -b),
                (a, -a),
                (b, -a),
                (b, a),
                (a, a),
                (a, b),
                (-a, b),
                (-a, a),
                (-b, a),
                (-b, -a),
                (-a, -a),
            )
            return Poly(tuple((cx + x, cy + y) for x, y in corner), fill)
        case "diamond":
            return Poly(
                ((cx, cy - 1.2 * r), (cx + 0.85 * r, cy), (cx, cy + 1.2 * r), (cx - 0.85 * r, cy)), fill
            )
        case "heart":
            turns = [2 * math.pi * i / 48 for i in range(48)]
            return Poly(
                tuple(
                    (
                        cx + r * math.sin(t) ** 3,
                        cy
                        - r
                        * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
                        / 15,
                    )
                    for t in turns
                ),
                fill,
            )
    raise ValueError(shape)


def _shape(s: Subject, rng: Random) -> list[Mark]:
    r = {"small": 9, "": 17, "big": 25}[s.size] + rng.uniform(-1, 1)
    cx, cy = 32 + rng.uniform(-3, 3), 32 + rng.uniform(-3, 3)
    return [_plain(s.background), _figure(s.shape, cx, cy, r, COLOURS[s.colour])]


def _pair(s: Subject, rng: Random) -> list[Mark]:
    dx, dy = rng.uniform(-2, 2), rng.uniform(-2, 2)
    first, second = COLOURS[s.colour], COLOURS[s.second_colour]
    if s.relation == "next to":
        marks = [
            _figure(s.shape, 17 + dx, 32 + dy, 11.5, first),
            _figure(s.second_shape, 47 + dx, 32 + dy, 11.5, second),
        ]
    elif s.relation == "above":
        marks = [
            _figure(s.shape, 32 + dx, 17 + dy, 11.5, first),
            _figure(s.second_shape, 32 + dx, 47 + dy, 11.5, second),
        ]
    else:
        outer = {"triangle": 27, "star": 27, "diamond": 26, "cross": 26}.get(s.second_shape, 23)
        inner = {"star": 7, "cross": 8}.get(s.second_shape, 9.5)
        low = {"triangle": 5, "heart": -2, "star": 2}.get(s.second_shape, 0)
        marks = [
            _figure(s.second_shape, 32 + dx, 32 + dy, outer, second),
            _figure(s.shape, 32 + dx, 32 + low + dy, inner, first),
        ]
    return [_plain(s.background), *marks]


def _sky(time: str, rng: Random, moon: Point = (49, 13)) -> list[Mark]:
    first, last = SKY[time]
    x, y = moon[0] + rng.uniform(-3, 3), moon[1] + rng.uniform(-2, 2)
    marks: list[Mark] = [Ground(0, first, last)]
    if time == "night":
        marks += [
            _disc(rng.uniform(2, 62), rng.uniform(2, 34), rng.uniform(0.5, 0.9), MOON, detail=True)
            for _ in range(10)
        ]
        marks.append(Poly(_crescent(x, y, 6), MOON, detail=True))
    else:
        marks.append(_disc(x, y, 6, SUN if time == "day" else LOW_SUN))
    return marks


def _crescent(cx: float, cy: float, r: float) -> tuple[Point, ...]:
    outer = [math.radians(a) for a in range(30, 271, 15)]
    inner = [math.radians(a) for a in range(250, 49, -20)]
    return tuple((cx + r * math.cos(a), cy + r * math.sin(a)) for a in outer) + tuple(
        (cx + 0.45 * r + 0.75 * r * math.cos(a), cy - 0.25 * r + 0.75 * r * math.sin(a)) for a in inner
    )


def _leafy(cx: float, foot: float, r: float, leaf: Colour, trunk: float) -> list[Mark]:
    return [
        _box(cx - 0.17 * r - 0.5, foot - trunk, cx + 0.17 * r + 0.5, foot, BARK),
        _disc(cx, foot - trunk - 0.6 * r, r, leaf),
    ]


def _night(colour: Colour, time: str) -> Colour:
    """Darken things that stand in the dark a little."""
    f = 0.72 if time == "night" else 1.0
    return tuple(round(c * f) for c in colour)  # type: ignore[return-value]


def _house(s: Subject, rng: Random) -> list[Mark]:
    cx, foot = (26 if s.tree else 32) + rng.uniform(-2, 2), 50 + rng.uniform(-1, 1)
    wall, roof = COLOURS[s.colour], COLOURS[s.second_colour]
    glass = (255, 224, 120) if s.time == "night" else (190, 228, 244)
    marks = [*_sky(s.time, rng), Ground(46, GRASS[s.time], GRASS[s.time])]
    if s.tree:
        marks += _leafy(cx + 26, foot + 1, 7.5, _night(LEAF, s.time), 9)
    return [
        *marks,
        _box(cx - 13, foot - 17, cx + 13, foot, wall),
        Poly(((cx - 17, foot - 16.5), (cx, foot - 31), (cx + 17, foot - 16.5)), roof),
        _box(cx - 3, foot - 10, cx + 3, foot, DARK if s.colour != "black" else BARK, detail=True),
        _box(cx - 10.5, foot - 13, cx - 5.5, foot - 8, glass, detail=True),
        _box(cx + 5.5, foot - 13, cx + 10.5, foot - 8, glass, detail=True),
    ]


def _boat(s: Subject, rng: Random) -> list[Mark]:
    cx, line = 30 + rng.uniform(-3, 3), 44 + rng.uniform(-1, 1)
    hull, sail = COLOURS[s.colour], COLOURS[s.second_colour]
    foam = tuple(min(255, c + 40) for c in SEA[s.time])
    marks: list[Mark] = [*_sky(s.time, rng, (53, 12)), Ground(line, SEA[s.time], SEA[s.time])]
    for at, y in ((6, 8), (40, 12), (22, 15)):
        x = at + rng.uniform(-3, 3)
        marks.append(Stroke(((x, line + y), (x + 12, line + y)), 1, foam))  # type: ignore[arg-type]
    return [
        *marks,
        _box(cx - 0.8, line - 32, cx + 0.8, line + 2, DARK, detail=True),
        Poly(((cx - 2, line - 29), (cx - 2, line - 2), (cx - 14, line - 2)), sail),
        Poly(((cx + 2, line - 31), (cx + 2, line - 2), (cx + 17, line - 2)), sail),
        Poly(((cx - 18, line), (cx + 19, line), (cx + 13, line + 9), (cx - 12, line + 9)), hull),
    ]


def _tree(s: Subject, rng: Random) -> list[Mark]:
    colour = LEAF if s.colour == "green" else COLOURS[s.colour]
    leaf = _night(colour, s.time)
    marks: list[Mark] = [*_sky(s.time, rng, (54, 10)), Ground(48, GRASS[s.time], GRASS[s.time])]
    if s.count == 1:
        return marks + _leafy(29 + rng.uniform(-3, 3), 54, 14.5, leaf, 16)
    for x in (12, 32, 52):
        marks += _leafy(x + rng.uniform(-1, 1), 54, 8.5, leaf, 13 + rng.uniform(-1, 1))
    return marks


def _bloom(cx: float, cy: float, r: float, petals: Colour, heart: Colour) -> list[Mark]:
    foot = 64.0
    stem = [Stroke(((cx, cy), (cx, foot)), 0.22 * r, LEAF)]
    leaf = Oval((cx, cy + 1.6 * r, cx + 0.95 * r, cy + 2.05 * r), LEAF)
    turns = [math.pi * i / 3 for i in range(6)]
    around = [_disc(cx + 0.62 * r * math.sin(t), cy - 0.62 * r * math.cos(t), 0.4 * r, petals) for t in turns]
    return [*stem, leaf, *around, _disc(cx, cy, 0.36 * r, heart)]


def _flower(s: Subject, rng: Random) -> list[Mark]:
    petals = COLOURS[s.colour]
    heart = (132, 88, 44) if s.colour in ("yellow", "orange", "white") else SUN
    marks: list[Mark] = [_plain(s.background)]
    if s.count == 1:
        return marks + _bloom(32 + rng.uniform(-2, 2), 25 + rng.uniform(-2, 2), 16.5, petals, heart)
    for x, y in ((13, 28), (32, 20), (51, 28)):
        marks += _bloom(x + rng.uniform(-1, 1), y + rng.uniform(-2, 2), 10, petals, heart)
    return marks


def _ears(s: Subject, cx: float, cy: float, fur: Colour, inner: Colour) -> list[Mark]:
    marks: list[Mark] = []
    for side in (-1, 1):

        def at(*points: Point, side: int = side) -> tuple[Point, ...]:
            return tuple((cx + side * x, cy + y) for x, y in points)

        if s.animal in ("cat", "fox"):
            marks.append(Poly(at((5, -15), (17, -25), (18.5, -6)), fur))
            marks.append(Poly(at((9, -15), (15.5, -21), (16, -11)), inner, True))
        elif s.animal == "bear":
            marks += [
                _disc(cx + side * 14, cy - 14, 7, fur),
                _disc(cx + side * 14, cy - 14, 3.5, inner, True),
            ]
        else:
            marks.append(Oval((cx + side * 9 - 5, cy - 31, cx + side * 9 + 5, cy - 5), fur))
            marks.append(Oval((cx + side * 9 - 2.2, cy - 28, cx + side * 9 + 2.2, cy - 10), inner, True))
    return marks


def _face(s: Subject, rng: Random) -> list[Mark]:
    cx, cy = 32 + rng.uniform(-2, 2), (39 if s.animal == "rabbit" else 35) + rng.uniform(-1.5, 1.5)
    fur = (226, 104, 44) if s.animal == "fox" and s.colour == "red" else COLOURS[s.colour]
    inner = tuple(round(c * 0.6 + f * 0.4) for c, f in zip((250, 170, 180), fur, strict=True))
    marks: list[Mark] = [_plain(s.background), *_ears(s, cx, cy, fur, inner)]  # type: ignore[arg-type]
    marks.append(Oval((cx - 18, cy - 17, cx + 18, cy + 17), fur))
    if s.animal == "fox":
        marks.append(
            Poly(((cx - 16, cy + 3), (cx, cy + 1), (cx + 16, cy + 3), (cx, cy + 17)), (250, 246, 238))
        )
    if s.animal == "bear":
        marks.append(Oval((cx - 8.5, cy - 1, cx + 8.5, cy + 14), tuple(min(255, c + 56) for c in fur)))  # type: ignore[arg-type]
    for side in (-1, 1):
        marks.append(Oval((cx + side * 7 - 2.3, cy - 7.5, cx + side * 7 + 2.3, cy - 1.5), DARK, True))
    marks.append(Oval((cx - 2.6, cy + 2, cx + 2.6, cy + 5.5), DARK, True))
    bend = 4 if s.mood == "happy" else -4
    base = 8 if s.mood == "happy" else 12
    curve = tuple((cx + x, cy + base + bend * (1 - (x / 6) ** 2)) for x in (-6, -4, -2, 0, 2, 4, 6))
    return [*marks, Stroke(curve, 1.5, DARK)]


def _mountains(s: Subject, rng: Random) -> list[Mark]:
    rock = {"day": (96, 104, 126), "sunset": (92, 72, 112), "night": (36, 40, 66)}[s.time]
    far = {"day": (126, 136, 158), "sunset": (124, 90, 124), "night": (50, 56, 86)}[s.time]
    snow = {"day": (250, 252, 255), "sunset": (252, 222, 206), "night": (196, 204, 230)}[s.time]
    low = SEA[s.time] if s.water else GRASS[s.time]
    marks = _sky(s.time, rng, (52, 10))
    for x, y, wide, fill in ((12, 24, 20, far), (53, 27, 19, far), (31, 14, 27, rock)):
        cx, top = x + rng.uniform(-2, 2), y + rng.uniform(-1, 1)
        slope = wide / (50 - top)
        cap = 0.28 * (50 - top)
        marks.append(Poly(((cx, top), (cx + wide, 50), (cx - wide, 50)), fill))
        left, right = cx - slope * cap, cx + slope * cap
        zigzag = (
            (cx + slope * cap * 0.4, top + cap * 0.72),
            (cx, top + cap),
            (cx - slope * cap * 0.45, top + cap * 0.75),
        )
        marks.append(Poly(((cx, top), (right, top + cap), *zigzag, (left, top + cap)), snow))
    return [*marks, Ground(48, low, low)]


_SCENES = {
    "shape": _shape, "pair": _pair, "house": _house, "boat": _boat,
    "tree": _tree, "flower": _flower, "face": _face, "mountains": _mountains,
}  # fmt: skip
