"""Strips: strength of every adapter at every step, ready for a template; regions that behave alike share one row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from farm.web.pages.words import number

#: order of rows and their short names
REGIONS = {"text_encoder": "te", "text_encoder_2": "te2", "text_encoder_3": "te3"}
#: more steps than this are drawn without gaps
DENSE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a strip."""

    adapter: str
    #: which regions it stands for: empty for all, else such as `te` or `in, mid`
    part: str
    strengths: tuple[float, ...]

    @property
    def sentence(self) -> str:
        return sentence(self.strengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """All rows of one job over its steps."""

    steps: int
    rows: tuple[Row, ...]
    #: the step under way; 0 before the first, None when the strip is not about a running job
    reached: int | None = None
    #: steps of an earlier pass, from whose end these count
    before: int = 0

    @property
    def marks(self) -> tuple[int, ...]:
        """Steps that are numbered above the strip."""
        gap = next(gap for gap in (5, 10, 20, 50, 100) if self.steps / gap <= 10 or gap == 100)
        inner = [step for step in range(gap, self.steps + 1, gap) if self.steps - step >= gap * 0.6]
        return (1, *inner, *((self.steps,) if self.steps > 1 else ()))

    @property
    def varies(self) -> bool:
        """Whether any strength changes during the run."""
        return any(len(set(row.strengths)) > 1 for row in self.rows)

    @property
    def dense(self) -> bool:
        return self.steps > DENSE


def sentence(strengths: Sequence[float]) -> str:
    """A row in words, for those who do not see it.

    >>> sentence((0.2, 0.2, 0.9))
    '0.2 in steps 1 to 2, 0.9 in step 3'
    >>> sentence((0.5, 0.5)), sentence((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    ('0.5 in all steps', 'from 0 in step 1 to 0.7 in step 8, changing in 8 steps')
    """
    runs, step = [], 1
    for value, same in groupby(strengths):
        count = len(list(same))
        runs.append((value, step, step + count - 1))
        step += count
    if len(runs) == 1:
        return f"{number(runs[0][0])} in all steps"
    if len(runs) > 6:
        first, last = strengths[0], strengths[-1]
        return (
            f"from {number(first)} in step 1 to {number(last)} in step {len(strengths)}, "
            f"changing in {len(runs)} steps"
        )
    return ", ".join(
        f"{number(value)} in step{'' if a == b else 's'} {a}{'' if a == b else f' to {b}'}"
        for value, a, b in runs
    )


def of_second_pass(explain: Mapping[str, Any] | None, *, reached: int | None = None) -> Strip | None:
    """The strip of the second pass of an `explain` object, of a job that has done `reached` steps of both."""
    if not explain:
        return None
    before = int(explain["steps"])
    inside = None if reached is None else max(0, reached - before)
    return of_explain(explain.get("second_pass"), reached=inside, before=before)


def of_explain(
    explain: Mapping[str, Any] | None, *, reached: int | None = None, before: int = 0
) -> Strip | None:
    """The strip of an `explain` object; None when there is nothing to draw."""
    if not explain or not explain.get("adapters"):
        return None
    rows = [
        row
        for adapter in explain["adapters"]
        for row in _rows(str(adapter["name"]), adapter.get("strengths") or {})
    ]
    if not rows:
        return None
    return Strip(steps=int(explain["steps"]), rows=tuple(rows), reached=reached, before=before)


def _rows(name: str, strengths: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterable[Row]:
    """Rows of one adapter: one when all regions agree, else one for each behaviour, named by its regions."""
    by_curve: dict[tuple[float, ...], list[str]] = {}
    for component, blocks in strengths.items():
        for block, curve in blocks.items():
            by_curve.setdefault(tuple(curve), []).append(_region(component, block, len(strengths)))
    for curve, parts in by_curve.items():
        yield Row(adapter=name, part="" if len(by_curve) == 1 else _parts(parts), strengths=curve)


def _region(component: str, block: str, components: int) -> str:
    if component.startswith("text_encoder"):
        return REGIONS.get(component, component)
    if component in {"unet", "transformer"}:
        return component if block == "all" and components == 1 else block
    return component if block == "all" else f"{component} {block}"


def _parts(parts: Sequence[str]) -> str:
    names = list(dict.fromkeys(parts))
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a strip as a line of a chart."""

    adapter: str
    part: str
    #: path data of an SVG
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The rows of a strip as lines over its steps."""

    width: int
    height: int
    lines: tuple[Line, ...]
    #: heights of the strengths 0, 1 and of the ends of the scale
    marks: tuple[tuple[float, str], ...]


WIDTH, HEIGHT = 560, 110


def chart(strip: Strip) -> Chart:
    """The rows as lines; each step is as wide as its cell in the strip. The scale is 0 to 1, or what the strip needs."""
    values = [value for row in strip.rows for value in row.strengths]
    low, high = min(0.0, *values), max(1.0, *values)
    width = WIDTH / strip.steps

    def height(value: float) -> float:
        return round(HEIGHT - (value - low) / (high - low) * HEIGHT, 1)

    lines = []
    for row in strip.rows:
        path = [f"M0 {height(row.strengths[0])}"]
        for step, value in enumerate(row.strengths):
            path.append(f"V{height(value)}H{(step + 1) * width:.1f}")
        lines.append(Line(adapter=row.adapter, part=row.part, path="".join(path)))
    marks = tuple((height(value), number(value)) for value in sorted({low, 0.0, 1.0, high}))
    return Chart(width=WIDTH, height=HEIGHT, lines=tuple(lines), marks=marks)
