r"""A derived cell as TikZ: one `tikzpicture` per kind of cell, to \input into a LaTeX document that loads tikz alone.

The drawing is that of the SVG (`layout.derived_layout`). Labels come from the closed list of operations and from state
numbers; a title is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from darts_core.genotype import CellGenes, Genotype
from darts_core.view.layout import BOX, derived_layout, output_name
from darts_core.view.palette import KIND_TITLES, colour

UNIT = 0.018  # centimetres
TEXT = 11.5  # centimetres: the width of an indented line of an article; a wider cell is scaled down to it
LETTER = 8.0  # drawing units that a letter of a label may take
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
}  # fmt: skip


def genotype_tikz(genotype: Genotype, title: str = "") -> str:
    """LaTeX source, complete but for `\\usepackage{tikz}` (said in its first line).

    Raises:
        BadInput: an operation is unknown.
    """
    ops = list(dict.fromkeys(g.op for cell in genotype.cells.values() for node in cell.nodes for g in node))
    lines = [r"% Needs \usepackage{tikz} in the preamble; \input this file where the picture is to stand."]
    if title:
        lines.append(rf"% {_escaped(title)}")
    lines += [rf"\definecolor{{{_colour_name(op)}}}{{HTML}}{{{colour(op)[1:]}}}" for op in ops]
    pictures = [
        "\n".join(_picture(cell, KIND_TITLES.get(kind, "Cell"), output_name(kind)))
        for kind, cell in genotype.cells.items()
    ]
    return "\n".join([*lines, "\n\\par\\medskip\n".join(pictures)]) + "\n"


def _picture(cell: CellGenes, title: str, output: tuple[str, str]) -> list[str]:
    longest = max([len(gene.op) for node in cell.nodes for gene in node], default=0)
    drawn = derived_layout(cell, BOX, LETTER * longest + 10, across=24.0)
    outside = (r"$c_{k-2}$", r"$c_{k-1}$") if cell.inputs == 2 else ("in",)
    text, low = output
    names = [*outside, *(f"${n}$" for n in range(len(cell.nodes))), f"${text}_{{{low}}}$" if low else f"${text}$"]
    share = TEXT / (drawn.width * UNIT)
    shrunk = f"scale={share:.3f}, transform shape," if share < 1 else ""
    lines = [
        # Styles have two words each: a single one may be a key of TikZ (`name` is, and without it no node has a name).
        rf"\begin{{tikzpicture}}[x={UNIT}cm, y=-{UNIT}cm, {shrunk}",
        r"    cell state/.style={draw=black!40, rounded corners=2pt, fill=black!4, inner sep=0pt, font=\small,",
        rf"        minimum width={BOX * UNIT:.3f}cm, minimum height={38 * UNIT:.3f}cm}},",
        r"    cell label/.style={rounded corners=3pt, fill=white, inner sep=0pt, font=\scriptsize,",
        rf"        minimum width={(LETTER * longest + 10) * UNIT:.3f}cm, minimum height={26 * UNIT:.3f}cm}},",
        r"    cell edge/.style={line width=1pt}, cell output/.style={black!35}]",
        rf"  \node[anchor=south west, inner sep=0pt] at (0,-14) {{\textbf{{{title}}}}};",
    ]
    for op, points in drawn.lines:
        style = f"cell edge, {_colour_name(op)}" if op else "cell output"
        lines.append(rf"  \draw[{style}] {_through(points)};")
    lines += [
        rf"  \node[cell label, draw={_colour_name(op)}] at ({x:.0f},{y:.0f}) {{{_escaped(op)}}};"
        for op, (x, y) in drawn.labels
    ]
    lines += [
        rf"  \node[cell state] at ({x:.0f},{y:.0f}) {{{name}}};"
        for name, (x, y) in zip(names, (*drawn.states, drawn.output), strict=True)
    ]
    return [*lines, r"\end{tikzpicture}"]


def _through(points: Sequence[tuple[float, float]]) -> str:
    """A curve through the points that is level at each of them."""
    path = f"({points[0][0]:.0f},{points[0][1]:.0f})"
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        middle = (x0 + x1) / 2
        path += f" .. controls ({middle:.0f},{y0:.0f}) and ({middle:.0f},{y1:.0f}) .. ({x1:.0f},{y1:.0f})"
    return path


def _colour_name(op: str) -> str:
    """A colour's name for TeX: letters alone."""
    digits = dict(zip("0123456789", "zoabcdefgh", strict=True))
    return "op" + "".join(digits.get(c, c) for c in op if c != "_")


def _escaped(text: str) -> str:
    """`text` such that TeX prints exactly its characters, on one line."""
    return re.sub(r"[\\{}$&#%_^~]", lambda found: SPECIAL[found[0]], " ".join(text.split()))
