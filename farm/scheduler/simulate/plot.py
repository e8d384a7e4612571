"""The comparison as an SVG picture: one row of bars a figure, one bar a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from farm.scheduler.simulate.figures import Figures

COLOURS = {
    "farm": "#2f6fde", "fifo": "#9aa3af", "random": "#c9ced6", "shortest": "#b08fc7", "belady": "#7fb3e6", "bound": "#3a9d5d",
}  # fmt: skip
ROWS: tuple[tuple[str, Callable[[Figures], float], str], ...] = (
    ("adapters found in memory", lambda item: item.hit_rate * 100, "{:.1f} %"),
    ("makespan", lambda item: item.makespan_s, "{:.0f} s"),
    ("wait, median", lambda item: item.wait_p50_s, "{:.1f} s"),
    ("wait, 95 %", lambda item: item.wait_p95_s, "{:.1f} s"),
    ("wait, 99 %", lambda item: item.wait_p99_s, "{:.1f} s"),
    ("fairness (Jain)", lambda item: item.jain, "{:.3f}"),
    ("fetched", lambda item: item.bytes_fetched / 1e9, "{:.0f} GB"),
)
WIDTH, LEFT, BAR, GAP = 720, 190, 14, 14


def draw(title: str, found: Mapping[str, Figures]) -> str:
    """An SVG document."""
    height = 50 + len(ROWS) * (len(found) * BAR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    top = 40
    for label, value, form in ROWS:
        most = max((value(item) for item in found.values()), default=0.0) or 1.0
        parts.append(f'<text x="12" y="{top + 11}">{escape(label)}</text>')
        for name, item in found.items():
            length = (WIDTH - LEFT - 150) * value(item) / most
            parts.append(
                f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 3}" fill="{COLOURS[name]}"/>'
                f'<text x="{LEFT + length + 6:.1f}" y="{top + 10}">{name} {form.format(value(item))}</text>'
            )
            top += BAR
        top += GAP
    return "\n".join([*parts, "</svg>", ""])
