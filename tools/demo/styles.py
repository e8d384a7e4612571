"""Paints a scene in the styles that the adapters learn: each is a function from marks to a picture.

Outlined styles fill what they outline with the paper's colour, so that things in front still hide things behind.
"""

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFilter

from tools.demo.draw import OVERSAMPLING, SIZE, Colour, Ground, Mark, Oval, Poly, Stroke, paint

Fill = Callable[[Colour], Colour]


def _luma(colour: Colour) -> float:
    return (0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]) / 255


def _mix(a: Colour, b: Colour, f: float) -> Colour:
    return tuple(round(x + (y - x) * f) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _ramp(*stops: Colour) -> Fill:
    """Return a map from any colour to the point of a gradient that is as bright."""

    def fill(colour: Colour) -> Colour:
        at = min(_luma(colour), 0.999) * (len(stops) - 1)
        return _mix(stops[int(at)], stops[int(at) + 1], at % 1)

    return fill


def _outlined(marks: list[Mark], paper: Image.Image, fill: Fill, line: Fill, width: float) -> Image.Image:
    """Draw `marks` on `paper` with fill and outline mapped from their own colours; grounds become a horizon line."""
    image = paper.copy()
    canvas = image.width
    k = canvas / 64
    pen = ImageDraw.Draw(image)
    thick = round(width * k)
    for mark in marks:
        match mark:
            case Ground():
                if mark.top > 0:
                    image.paste(
                        paper.crop((0, round(mark.top * k), canvas, canvas)), (0, round(mark.top * k))
                    )
                    pen.line(((0, mark.top * k), (canvas, mark.top * k)), line(mark.first), thick)
            case Poly():
                points = [(x * k, y * k) for x, y in mark.points]
                pen.polygon(points, fill=line(mark.fill) if mark.detail else fill(mark.fill))
                if not mark.detail:
                    pen.line([*points, points[0], points[1]], line(mark.fill), thick, joint="curve")
            case Oval():
                box = [v * k for v in mark.box]
                if mark.detail:
                    pen.ellipse(box, fill=line(mark.fill))
                else:
                    pen.ellipse(box, fill=fill(mark.fill), outline=line(mark.fill), width=thick)
            case Stroke():
                pen.line(
                    [(x * k, y * k) for x, y in mark.points],
                    line(mark.fill),
                    max(thick, round(mark.width * k)),
                )
    return image


def _canvas(colour: Colour) -> Image.Image:
    return Image.new("RGB", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), colour)


def _reduce(image: Image.Image) -> Image.Image:
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def ink(marks: list[Mark]) -> Image.Image:
    """Black lines on warm paper; dark things are filled with ink."""
    paper, black = (246, 240, 226), (26, 24, 28)

    def fill(colour: Colour) -> Colour:
        return (70, 66, 68) if _luma(colour) < 0.16 else paper

    return _reduce(_outlined(marks, _canvas(paper), fill, lambda _: black, 1.7))


def neon(marks: list[Mark]) -> Image.Image:
    """Glowing outlines in each thing's own hue, on near black."""
    night = (10, 6, 24)

    def glow(colour: Colour) -> Colour:
        low, high = min(colour), max(colour)
        if high - low < 30:
            return (120, 240, 255) if high > 100 else (255, 70, 220)
        return tuple(round(40 + 215 * (c - low) / (high - low)) for c in colour)  # type: ignore[return-value]

    drawn = _outlined(marks, _canvas(night), lambda _: night, glow, 1.7)
    halo = drawn.filter(ImageFilter.GaussianBlur(2.6 * OVERSAMPLING))
    return _reduce(Image.blend(drawn, _add(drawn, halo), 0.85))


def _add(a: Image.Image, b: Image.Image) -> Image.Image:
    from PIL import ImageChops

    return ImageChops.add(a, b)


def gold(marks: list[Mark]) -> Image.Image:
    """Gold leaf of several depths with bright edges, on dark lacquer."""
    leaf = _ramp((96, 56, 16), (168, 112, 30), (222, 168, 54), (252, 222, 128))
    return _reduce(_outlined(marks, _canvas((26, 16, 18)), leaf, lambda _: (255, 232, 160), 1.2))


def blueprint(marks: list[Mark]) -> Image.Image:
    """White lines on blue paper with a faint grid."""
    blue, faint = (28, 72, 156), (62, 106, 186)
    paper = _canvas(blue)
    pen = ImageDraw.Draw(paper)
    for at in range(4 * OVERSAMPLING, paper.width, 8 * OVERSAMPLING):
        pen.line(((at, 0), (at, paper.width)), faint, OVERSAMPLING)
        pen.line(((0, at), (paper.width, at)), faint, OVERSAMPLING)
    return _reduce(_outlined(marks, paper, lambda _: blue, lambda _: (232, 242, 255), 1.5))


def mosaic(marks: list[Mark]) -> Image.Image:
    """Small square tiles with dark joints."""
    plain = paint(marks)
    tiles = plain.resize((SIZE // 4, SIZE // 4), Image.Resampling.BOX).resize(
        (SIZE, SIZE), Image.Resampling.NEAREST
    )
    pen = ImageDraw.Draw(tiles)
    for at in range(0, SIZE, 4):
        pen.line(((at, 0), (at, SIZE)), (44, 40, 44))
        pen.line(((0, at), (SIZE, at)), (44, 40, 44))
    return tiles


def candy(marks: list[Mark]) -> Image.Image:
    """Everything in pinks and creams with thick plum outlines."""
    sweet = _ramp((150, 60, 130), (240, 110, 160), (255, 180, 190), (255, 240, 214))
    paper = sweet(marks[0].first) if isinstance(marks[0], Ground) else sweet((255, 255, 255))
    return _reduce(
        _outlined(marks, _canvas(_mix(paper, (255, 226, 232), 0.5)), sweet, lambda _: (106, 34, 96), 1.6)
    )


STYLES: dict[str, Callable[[list[Mark]], Image.Image]] = {
    "ink": ink, "neon": neon, "gold": gold, "blueprint": blueprint, "mosaic": mosaic, "candy": candy,
}  # fmt: skip
