"""Cells as stand-alone SVG: the ribbon drawing of a mix, and the boxes and labelled edges of a derived cell.

The text is complete in itself (no style sheet, no script, no font file), on a light ground, and everything that comes
from outside is escaped. `ribbon.js` draws the same bands on pages; a test holds the two together.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from darts_core.errors import BadInput
from darts_core.genotype import CellGenes, Genotype
from darts_core.space import CellSpec
from darts_core.view.layout import BOX, Box, Line, cell_layout, derived_layout, output_name
from darts_core.view.palette import FILL, FONT, INK, KIND_TITLES, LINE, MUTED, OP_MEANING, PAPER, colour, colours

WIDE = 15.0  # thickness of a ribbon, in drawing units
SAMPLES = 37  # points along a ribbon
SEAM = 0.1  # bands overlap by this much, so that no light shines between them
THIN = 0.015  # bands below this thickness, a thousandth of the ribbon, are left out
FADED = 0.16  # opacity of edges that derivation drops
LEAST = 640.0  # width of a derived cell that lies, so that pages do not blow a small one up
LYING_TEXT, UPRIGHT_TEXT = 100, 54  # characters in a line of text below a derived cell

# ---------------------------------------------------------------------------------------------- a mix, drawn as ribbons


def mix_svg(cell: CellSpec, mix: np.ndarray, title: str = "", kept: Sequence[bool] | None = None) -> str:
    """The ribbon drawing of a mix: every edge a ribbon, striped in the fixed order of operations by their weights.

    Args:
        mix: (edges, ops), not negative; rows that sum to more than one are drawn divided by their sum.
        kept: per edge, whether derivation keeps it; the others fade. None: all edges are drawn in full.

    Raises:
        BadInput: the mix does not have the cell's shape, or holds something that cannot be drawn.
    """
    mix = np.asarray(mix, dtype=float)
    if mix.shape != cell.shape:
        raise BadInput("drawing", "mix", f"has shape {mix.shape}, not {cell.shape}", "use a mix of this space")
    if not (np.isfinite(mix).all() and (mix >= 0).all()):
        raise BadInput("drawing", "mix", "holds a negative or infinite weight", "give weights from 0 upwards")
    layout = cell_layout(cell)
    paint = colours(cell.ops)
    parts = []
    for edge, (line, row) in enumerate(zip(layout.lines, mix, strict=True)):
        faded = kept is not None and not kept[edge]
        paths = f'<path d="{casing(line)}" fill="{FILL}" stroke="{LINE}"/>'
        paths += "".join(f'<path d="{d}" fill="{paint[op]}"/>' for op, d in bands(line, row))
        opacity = f' opacity="{FADED}"' if faded else ""
        parts.append(f"<g{opacity}><title>{escape(edge_sentence(cell, edge, row))}</title>{paths}</g>")
    boxes = "".join(_box(box) for box in layout.boxes)
    legend = _legend(cell.ops, layout.width)
    head = _title(title)
    body = f'<g transform="translate(0 {head.height})">{"".join(parts)}{boxes}</g>'
    foot = f'<g transform="translate(0 {head.height + layout.height:g})">{legend.text}</g>'
    height = head.height + layout.height + legend.height
    return _document(layout.width, height, title or "Cell", head.text + body + foot)


def bands(line: Line, weights: Sequence[float]) -> list[tuple[int, str]]:
    """(operation, path data) of the stripes of one ribbon; weights are divided by max(1, their sum)."""
    return [(op, _path(around)) for op, around in strips(line, weights)[1]]


def casing(line: Line) -> str:
    """Path data of a whole ribbon: its outline, and what shows where weights sum to less than one."""
    return _path(strips(line, ())[0])


def strips(line: Line, weights: Sequence[float]) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """A ribbon as polygons (points, 2): its casing, and (operation, stripe); stripes too thin to see are left out."""
    curve = _curve(line)
    whole = max(1.0, float(np.sum(weights)))
    drawn, offset = [], -WIDE / 2
    for op, weight in enumerate(weights):
        thick = WIDE * float(weight) / whole
        if thick >= THIN:
            drawn.append((op, _band(curve, offset, offset + thick + SEAM)))
        offset += thick
    return _band(curve, -WIDE / 2 - 0.5, WIDE / 2 + 0.5), drawn


def _band(curve: tuple[np.ndarray, np.ndarray], low: float, high: float) -> np.ndarray:
    """The closed strip from `low` to `high` beside the middle line, to its right as one walks along it."""
    points, normals = curve
    return np.concatenate([points + normals * low, (points + normals * high)[::-1]])


def _path(around: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in around) + "Z"


def _curve(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """(37, 2) points of a cubic that leaves and arrives level, and (37, 2) unit normals."""
    t = np.linspace(0.0, 1.0, SAMPLES)[:, None]
    half = (line.x1 - line.x0) / 2
    corners = np.array([[line.x0, line.y0], [line.x0 + half, line.y0], [line.x1 - half, line.y1], [line.x1, line.y1]])
    weights = np.concatenate([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], 1)  # (37, 4), Bernstein
    points = weights @ corners
    along = np.empty_like(points)
    along[1:-1] = points[2:] - points[:-2]
    along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return points, np.stack([-along[:, 1], along[:, 0]], 1)


def edge_sentence(cell: CellSpec, edge: int, weights: Sequence[float]) -> str:
    """ "Edge from two cells back to node 1: skip_connect 31 %, ..." with the three strongest operations."""
    source, target = (cell.state_words(state) for state in cell.edges[edge])
    strongest = sorted(range(len(cell.ops)), key=lambda op: -weights[op])[:3]
    said = ", ".join(f"{cell.ops[op]} {100 * weights[op]:.0f} %" for op in strongest)
    total = float(np.sum(weights))
    more = "" if abs(total - 1) < 0.005 else f" (weights sum to {total:.2f})"
    return f"Edge from {source} to {target}: {said}{more}"


# ----------------------------------------------------------------------------------------------------- a derived cell


def genotype_svg(genotype: Genotype, title: str = "", kinds: Sequence[str] | None = None, upright: bool = False) -> str:
    """The derived cells one below the other: boxes for states, and on each kept edge its operation.

    Args:
        kinds: which cells, in this order; None: all of them.
        upright: data flows downwards, for narrow pages.

    Raises:
        BadInput: a kind or an operation is unknown.
    """
    head = _title(title)
    parts, y, width = [head.text], head.height, 0.0
    used: list[str] = []
    for kind in genotype.cells if kinds is None else kinds:
        if kind not in genotype.cells:
            raise BadInput("drawing", "kind", f"there is no {kind!r} cell", f"choose from {', '.join(genotype.cells)}")
        drawn = _derived(genotype.cells[kind], output_name(kind), upright)
        name = KIND_TITLES.get(kind, kind)
        parts.append(_text(22, y + 24, name, size=15, weight=600))
        parts.append(f'<g transform="translate(22 {y + 40:g})">{drawn.text}</g>')
        y += drawn.height + 40 + 22
        width = max(width, drawn.width + 44)
        used += [gene.op for node in genotype.cells[kind].nodes for gene in node if gene.op not in used]
    reading = textwrap.wrap(_reading(genotype), UPRIGHT_TEXT if upright else LYING_TEXT)
    legend = _legend([op for op in OP_MEANING if op in used], width, reading)
    parts.append(f'<g transform="translate(0 {y:g})">{legend.text}</g>')
    width = max(width, legend.width, 0 if upright else LEAST)
    return _document(width, y + legend.height, title or "Derived cell", "".join(parts))


def _reading(genotype: Genotype) -> str:
    """How to read the picture, in sentences."""
    if "recurrent" in genotype.cells:
        return (
            "Each node applies its function to one earlier state and keeps a part of that state as it is; the new "
            "hidden state h is the mean of the states that lead to it."
        )
    if "chain" in genotype.cells:
        return "Each block works on what the one before it gives; the last one's output is that of the chain, c_{k}."
    if any(genes.inputs == 1 for genes in genotype.cells.values()):
        return "A node adds up what reaches it; the last node is the cell's output c_{k}."
    return (
        "c_{k-2} and c_{k-1} are the outputs of the two cells before. A node adds up what reaches it; the cell's "
        "output c_{k} is its nodes side by side."
    )


def _derived(genes: CellGenes, output: tuple[str, str], upright: bool) -> _Drawing:
    """`output`: the name of what the cell hands on, and its subscript."""
    ops = {gene.op for node in genes.nodes for gene in node}
    pill = max([_pill_width(op) for op in ops], default=0.0)
    drawn = derived_layout(genes, BOX, pill, upright=upright)
    lines = []
    for op, points in drawn.lines:
        paint, thick = (colour(op), 3.5) if op else (LINE, 1.5)
        lines.append(f'<path d="{_smooth(points, upright)}" fill="none" stroke="{paint}" stroke-width="{thick}"/>')
    pills = "".join(_pill(op, *at, pill) for op, at in drawn.labels)
    boxes = [_box(Box(*_state(i, genes.inputs), *at, BOX, 38.0)) for i, at in enumerate(drawn.states)]
    boxes.append(_box(Box(*output, *drawn.output, BOX, 38.0)))
    return _Drawing("".join(lines) + pills + "".join(boxes), drawn.width, drawn.height)


def _state(state: int, inputs: int) -> tuple[str, str]:
    """The name in a box: text and subscript."""
    outside = (("c", "k-2"), ("c", "k-1")) if inputs == 2 else (("input", ""),)
    return outside[state] if state < inputs else (str(state - inputs), "")


def _smooth(points: Sequence[tuple[float, float]], upright: bool) -> str:
    """A curve through the points that is level at each of them; `upright`: plumb."""
    d = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        half = (y1 - y0) / 2 if upright else (x1 - x0) / 2
        bends = (x0, y0 + half, x1, y1 - half) if upright else (x0 + half, y0, x1 - half, y1)
        d += "C{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}".format(*bends, x1, y1)
    return d


def _pill_width(op: str) -> float:
    return 7.4 * len(op) + 34


def _pill(op: str, x: float, y: float, width: float) -> str:
    """The name of an operation with its colour; the text is dark on paper, so the colour need not be readable."""
    left, paint = x - width / 2, colour(op)
    return (
        f'<rect x="{left:.1f}" y="{y - 13:.1f}" width="{width:.1f}" height="26" rx="13" fill="{PAPER}" '
        f'stroke="{paint}" stroke-width="2"/><circle cx="{left + 15:.1f}" cy="{y:.1f}" r="5" fill="{paint}"/>'
        + _text(left + 26, y + 4.5, op, size=13)
    )


# ------------------------------------------------------------------------------------------------------------- pieces


class _Drawing(NamedTuple):
    text: str
    width: float
    height: float


def _box(box: Box) -> str:
    sub = f'<tspan dy="4" font-size="10">{escape(box.sub)}</tspan>' if box.sub else ""
    return (
        f'<rect x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="10" fill="{FILL}" stroke="{LINE}"/>'
        f'<text x="{box.x:.1f}" y="{box.y + 5:.1f}" font-size="15" text-anchor="middle" fill="{INK}">'
        f"{escape(box.text)}{sub}</text>"
    )


def _text(x: float, y: float, text: str, size: int = 13, weight: int = 400, fill: str = INK) -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{fill}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(_shown(text))}</text>'


def _lowered(text: str) -> str:
    """Our own text with its subscripts, written c_{k-2}, set low; something has to follow each of them."""
    first, *rest = re.split(r"_\{(.*?)\}", escape(text))
    low = zip(rest[::2], rest[1::2], strict=True)
    return first + "".join(f'<tspan dy="3" font-size="9">{sub}</tspan><tspan dy="-3">{on}</tspan>' for sub, on in low)


def _shown(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    return "".join(c for c in text if c.isprintable())


def _title(title: str) -> _Drawing:
    return _Drawing(_text(22, 34, title, size=18, weight=600), 0, 46) if title else _Drawing("", 0, 8)


def _legend(ops: Sequence[str], width: float, lines: Sequence[str] = ()) -> _Drawing:
    """Colour, name and meaning of each operation, in as many columns as fit."""
    column = max([320.0, *(46 + 6.4 * len(f"{op}  {OP_MEANING.get(op, '')}") for op in ops)])
    columns = max(1, int(width // column))
    parts = []
    for n, op in enumerate(ops):
        x, y = 22 + column * (n % columns), 20 + 22 * (n // columns)
        meaning = escape(OP_MEANING.get(op, ""))
        parts.append(
            f'<rect x="{x:g}" y="{y - 11:g}" width="14" height="14" rx="3" fill="{colour(op)}"/>'
            f'<text x="{x + 22:g}" y="{y:g}" font-size="12.5" fill="{INK}">{escape(op)}'
            f'<tspan fill="{MUTED}">  {meaning}</tspan></text>'
        )
    y = 20 + 22 * -(-len(ops) // columns)
    for n, line in enumerate(lines):
        parts.append(f'<text x="22" y="{y + 6 + 18 * n}" font-size="12" fill="{MUTED}">{_lowered(line)}</text>')
    longest = max([6.3 * len(line) for line in lines], default=0.0)
    return _Drawing("".join(parts), max(column * min(columns, len(ops)), longest + 44), y + 18 * len(lines) + 4)


def _document(width: float, height: float, title: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" font-family="{escape(FONT)}">'
        f'<title>{escape(_shown(title))}</title><rect width="100%" height="100%" fill="{PAPER}"/>{body}</svg>\n'
    )
