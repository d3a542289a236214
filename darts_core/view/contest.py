"""The picture of a comparison: a line per method, a dot per seed, the mean as a bar, random cells as a band behind."""

from __future__ import annotations

from xml.sax.saxutils import escape

from darts_core.tally import Tally
from darts_core.view.palette import FONT, INK, LINE, MUTED, PAPER

LEAST, WIDTH, TALL, TOP = 190.0, 620.0, 34.0, 70.0
LETTER = 7.2  # width of a letter of a method's name, at most on average
DOT, MEAN, BAND = "#0072B2", "#262730", "#E6E8EE"


def contest_svg(tally: Tally) -> str:
    """Accuracy of the derived cells, in per cent of the test images."""
    rows = [row for row in tally.rows if row.values("accuracy")]
    values = [v for row in rows for v in row.values("accuracy")] + list(tally.band or ())
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = max(0.005, 0.06 * (high - low))
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    left = max([LEAST, *(LETTER * len(row.method) + 32 for row in rows)])
    x = lambda value: left + (value - low) / (high - low) * WIDTH  # noqa: E731
    height = TOP + TALL * len(rows) + 56
    parts = [_text(20, 30, tally.name, 17, INK, 600), _text(20, 50, f"Test accuracy, {tally.source}", 12, MUTED)]
    bottom = TOP + TALL * len(rows)
    if tally.band:
        a, mean, b = (x(v) for v in tally.band)
        parts.append(
            f'<rect x="{a:.1f}" y="{TOP}" width="{max(1.0, b - a):.1f}" height="{bottom - TOP}" fill="{BAND}"/>'
        )
        parts.append(f'<path d="M{mean:.1f},{TOP}V{bottom}" stroke="{MUTED}" stroke-dasharray="4 3"/>')
        parts.append(_text(left, bottom + 44, f"grey: {tally.band_of}; dashed: their mean", 12, MUTED))
    for k in range(6):
        value = low + (high - low) * k / 5
        parts.append(f'<path d="M{x(value):.1f},{bottom}v5" stroke="{LINE}"/>')
        parts.append(_text(x(value), bottom + 20, f"{100 * value:.1f} %", 12, MUTED, anchor="middle"))
    for number, row in enumerate(rows):
        y = TOP + TALL * (number + 0.5)
        found = row.values("accuracy")
        parts.append(f'<path d="M{left},{y}H{left + WIDTH}" stroke="{LINE}" stroke-width="0.6"/>')
        parts.append(_text(left - 12, y + 4, row.method, 13, INK, anchor="end"))
        mean = x(sum(found) / len(found))
        parts.append(f'<path d="M{mean:.1f},{y - 10}v20" stroke="{MEAN}" stroke-width="3"/>')
        for value in found:
            parts.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="{DOT}" fill-opacity="0.55"/>')
    label = escape("; ".join(f"{r.method} {100 * sum(v) / len(v):.1f} %" for r in rows if (v := r.values("accuracy"))))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + WIDTH + 40:g} {height:g}" role="img" '
        f'aria-label="{label}"><rect width="100%" height="100%" fill="{PAPER}"/>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, words: str, size: int, paint: str, weight: int = 400, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="{escape(FONT)}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{paint}">{escape(words)}</text>'
    )
