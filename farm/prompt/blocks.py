"""Factors per block of the denoiser: lora-block-weight's vectors and presets, and ranges by index.

A vector's first factor, BASE, multiplies the text encoders and the denoiser's layers outside any block. The short
vectors (12, 17) name the blocks that have attention; a block that such a vector does not name gets 0, as in
lora-block-weight. A preset is a rule instead of a vector, so it fits every UNet and also covers those blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farm.lora.layout import Layout, Region
from farm.prompt.mistakes import Mistake, shown
from farm.prompt.numbers import format_number, read_strength

_OUT_OF_SD1 = tuple(f"OUT{number:02}" for number in range(12))
_IN_OF_SD1 = tuple(f"IN{number:02}" for number in range(12))
_ATTENTION = ("IN01", "IN02", "IN04", "IN05", "IN07", "IN08")

#: labels of the blocks that a vector of so many factors names, behind BASE
VECTORS: Mapping[int, tuple[str, ...]] = {
    12: (*_ATTENTION[2:], "M00", *_OUT_OF_SD1[:6]),
    17: (*_ATTENTION, "M00", *_OUT_OF_SD1[3:]),
    20: (*_IN_OF_SD1[:9], "M00", *_OUT_OF_SD1[:9]),
    26: (*_IN_OF_SD1, "M00", *_OUT_OF_SD1),
}
#: CLIP, T5, IN, 19 double blocks, 38 single blocks, OUT
FLUX_LENGTH = 61
#: labels of the blocks of SD1 and SD2, in order
UNET_BLOCKS = VECTORS[26]
#: lengths that name some of a UNet's blocks, by its number of blocks
_SHORT: Mapping[int, tuple[int, ...]] = {25: (17,), 19: (12,)}
#: family of a layout that stands for a model nobody named
ANY_FAMILY = "any"

#: (BASE, shallow and deep part of in, mid, deep and shallow part of out)
PRESETS: Mapping[str, tuple[float, float, float, float, float, float]] = {
    "NONE": (0, 0, 0, 0, 0, 0),
    "ALL": (1, 1, 1, 1, 1, 1),
    "INS": (1, 1, 0, 0, 0, 0),
    "IND": (1, 0, 1, 0, 0, 0),
    "INALL": (1, 1, 1, 0, 0, 0),
    "MIDD": (1, 0, 1, 1, 1, 0),
    "OUTD": (1, 0, 0, 0, 1, 0),
    "OUTS": (1, 0, 0, 0, 0, 1),
    "OUTALL": (1, 0, 0, 0, 1, 1),
    "ALL0.5": (0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
}
#: how many blocks from the outside are shallow, for UNets where custom has fixed it
_SHALLOW: Mapping[int, int] = {12: 5, 9: 6}


@dataclass(frozen=True, slots=True)
class Lbw:
    """What `lbw=` says: a vector, or the name of a preset."""

    factors: tuple[float, ...] = ()
    preset: str = ""

    def __str__(self) -> str:
        return self.preset or ",".join(map(format_number, self.factors))


@dataclass(frozen=True, slots=True)
class BlockRange:
    """One part of `blocks=`: a factor for the blocks `first` … `last`, counted from 0."""

    first: int
    last: int
    factor: float

    def __str__(self) -> str:
        blocks = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{blocks}={format_number(self.factor)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """A factor for each region of a model."""

    text_encoders: Mapping[str, float]
    outside_in: float
    outside_out: float
    blocks: tuple[float, ...]

    def of(self, region: Region) -> float:
        if region.component in self.text_encoders:
            return self.text_encoders[region.component]
        if region.index >= 0:
            return self.blocks[region.index]
        return self.outside_out if region.block == "out" else self.outside_in


def read_lbw(text: str) -> Lbw:
    """Read a vector or a preset's name; whether it fits shows `factors`, which knows the model.

    >>> read_lbw("1,0,0.5"), read_lbw("OUTALL")
    (Lbw(factors=(1.0, 0.0, 0.5), preset=''), Lbw(factors=(), preset='OUTALL'))

    Raises:
        Mistake: a factor is no number.
    """
    text = text.strip()
    if not text:
        raise Mistake(
            "bad_value", "lbw is empty", "write factors for the blocks, or a preset such as lbw=INALL"
        )
    parts = text.split(",")
    if len(parts) == 1:
        try:
            read_strength(text)
        except Mistake:
            if len(text) > 64:
                raise Mistake(
                    "unknown_preset", f"{shown(text)} is no preset", f"presets are {', '.join(PRESETS)}"
                ) from None
            return Lbw(preset=text)
    if len(parts) > 128:
        raise Mistake("lbw_length", f"lbw has {len(parts)} factors", f"the longest form has {FLUX_LENGTH}")
    factors: list[float] = []
    for part in parts:
        if part.strip() in ("R", "U") or part.strip().startswith("X"):
            raise Mistake(
                "bad_number",
                f"factor {shown(part)} is drawn at random or inherited, which Farm does not do",
                "write the number: a job must give the same picture twice",
            )
        factors.append(read_strength(part, "factor"))
    return Lbw(factors=tuple(factors))


def read_blocks(text: str) -> tuple[BlockRange, ...]:
    """Read factors by index of block.

    >>> [str(part) for part in read_blocks("0-5=0.5/6=1")]
    ['0-5=0.5', '6=1']

    Raises:
        Mistake: a part that does not parse, or two parts that name one block.
    """
    ranges: list[BlockRange] = []
    parts = text.split("/")
    if len(parts) > 128:
        raise Mistake("bad_value", f"blocks has {len(parts)} parts", "join neighbours: 0-5=0.5")
    for part in parts:
        read = _read_range(part)
        overlap = next((r for r in ranges if r.first <= read.last and read.first <= r.last), None)
        if overlap is not None:
            raise Mistake(
                "bad_value",
                f"{shown(str(read))} and {shown(str(overlap))} name the same block",
                "give each block one factor",
            )
        ranges.append(read)
    return tuple(ranges)


def _read_range(part: str) -> BlockRange:
    blocks, equals, factor = part.partition("=")
    first, dash, last = (word.strip() for word in blocks.partition("-"))
    ends = (first, last if dash else first)
    if not equals or not all(end.isascii() and end.isdigit() and len(end) <= 6 for end in ends):
        raise Mistake(
            "bad_value", f"{shown(part)} is no range of blocks with a factor", "write 0-5=0.5/6-11=1"
        )
    if int(ends[0]) > int(ends[1]):
        raise Mistake("bad_value", f"blocks {shown(blocks)} run backwards", f"write {ends[1]}-{ends[0]}")
    return BlockRange(int(ends[0]), int(ends[1]), read_strength(factor, "factor"))


def lengths(layout: Layout) -> tuple[int, ...]:
    """Return the lengths of `lbw` vectors that fit a model, the shortest first.

    Every model takes BASE and one factor a block; two UNets have a short form too.
    """
    if layout.family == ANY_FAMILY:
        return tuple(VECTORS)
    if len(layout.blocks) == FLUX_LENGTH - 4 and "M00" not in layout.blocks:
        return (FLUX_LENGTH,)
    short = _SHORT.get(len(layout.blocks), ()) if "M00" in layout.blocks else ()
    return (*short, len(layout.blocks) + 1)


def lbw_factors(lbw: Lbw, layout: Layout, presets: Mapping[str, Sequence[float]] | None = None) -> Factors:
    """Return the factors of `lbw` for the regions of `layout`. `presets` add to PRESETS, or replace them by name.

    Raises:
        Mistake: unknown preset, or a vector whose length does not fit the model.
    """
    if not layout.blocks:
        raise Mistake("missing_block", "this model has no blocks that lbw could name", "remove lbw")
    vector: Sequence[float] = lbw.factors
    if lbw.preset:
        own = {name.casefold(): factors for name, factors in (presets or {}).items()}
        vector = own.get(lbw.preset.casefold(), ())
        if not vector:
            return _preset_factors(lbw.preset, layout, own)
    fitting = lengths(layout)
    if len(vector) not in fitting:
        named = " or ".join(map(str, fitting))
        raise Mistake(
            "lbw_length",
            f"lbw has {len(vector)} factors, this model takes {named}",
            f"write {named} factors (the first one is BASE), or a preset such as INALL",
        )
    return _vector_factors(vector, layout)


def range_factors(ranges: Sequence[BlockRange], layout: Layout) -> Factors:
    """Return the factors of `blocks=`; blocks that it does not name keep 1.

    Raises:
        Mistake: the model lacks a block.
    """
    factors = [1.0] * len(layout.blocks)
    for part in ranges:
        if part.last >= len(factors):
            raise Mistake(
                "missing_block",
                f"the model lacks block {part.last}",
                f"its blocks are 0 to {len(factors) - 1}" if factors else "this model has no numbered blocks",
            )
        for index in range(part.first, part.last + 1):
            factors[index] = part.factor
    return _factors(layout, (1.0,), 1.0, 1.0, factors)


def _vector_factors(vector: Sequence[float], layout: Layout) -> Factors:
    if len(vector) == FLUX_LENGTH and len(layout.blocks) == FLUX_LENGTH - 4:
        return _factors(layout, vector[:2], vector[2], vector[-1], vector[3:-1])
    if len(vector) == len(layout.blocks) + 1:
        return _factors(layout, vector[:1], vector[0], vector[0], vector[1:])
    named = dict(zip(VECTORS[len(vector)], vector[1:], strict=True))
    return _factors(
        layout, vector[:1], vector[0], vector[0], [named.get(label, 0.0) for label in layout.blocks]
    )


def _preset_factors(name: str, layout: Layout, own: Mapping[str, Sequence[float]]) -> Factors:
    preset = PRESETS.get(name.upper())
    if preset is None:
        known = ", ".join([*PRESETS, *(word for word in own if word.upper() not in PRESETS)])
        raise Mistake("unknown_preset", f"{shown(name)} is no preset of lbw", f"presets are {known}")
    base, in_shallow, in_deep, mid, out_deep, out_shallow = preset
    values = {
        ("in", True): in_shallow,
        ("in", False): in_deep,
        ("mid", True): mid,
        ("mid", False): mid,
        ("out", False): out_deep,
        ("out", True): out_shallow,
    }
    return _factors(layout, (base,), base, base, [values[part] for part in _parts(layout.blocks)])


def _parts(labels: Sequence[str]) -> list[tuple[str, bool]]:
    """Side of each block, and whether it is shallow: nearer to the outside than to the middle."""
    sides = [
        "mid" if label.startswith("M") else "in" if label.startswith("IN") else "out" for label in labels
    ]
    if "mid" not in sides:
        count = len(labels)
        sides = [("in", "mid", "out")[min(2, index * 3 // count)] for index in range(count)]
    counts = {side: sides.count(side) for side in ("in", "mid", "out")}
    parts: list[tuple[str, bool]] = []
    seen = {"in": 0, "mid": 0, "out": 0}
    for side in sides:
        count, number = counts[side], seen[side]
        seen[side] += 1
        distance = count - 1 - number if side == "out" else number
        parts.append((side, distance < _SHALLOW.get(count, (count + 1) // 2)))
    return parts


def _factors(
    layout: Layout, text: Sequence[float], inside: float, outside: float, blocks: Sequence[float]
) -> Factors:
    """`text` has one factor for each text encoder; the last one goes for those behind it."""
    return Factors(
        text_encoders={
            name: float(text[min(index, len(text) - 1)]) for index, name in enumerate(layout.text_encoders)
        },
        outside_in=float(inside),
        outside_out=float(outside),
        blocks=tuple(map(float, blocks)),
    )
