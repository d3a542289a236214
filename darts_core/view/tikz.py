r"""A derived cell as TikZ: one `tikzpicture` per kind of cell, to \input into a LaTeX document that loads tikz alone.

Positions are those of the SVG (`layout.layered`), so both show the same picture. Labels come from the closed list of
operations and from state numbers; a title is escaped.
"""

from __future__ import annotations

import re

from darts_core.genotype import CellGenes, Genotype
from darts_core.view.layout import layered
from darts_core.view.palette import KIND_TITLES, colour

POINT = 0.022  # centimetres per drawing unit
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
    lines += [rf"\definecolor{{{_colour_name(op)}}}{{HTML}}{{{colour(op)[1:]}}}" for op in ops]
    if title:
        lines.append(rf"% {_escaped(title)}")
    for kind, cell in genotype.cells.items():
        lines += _picture(cell, KIND_TITLES.get(kind, "Cell"))
    return "\n".join(lines) + "\n"


def _picture(cell: CellGenes, title: str) -> list[str]:
    inputs = 2
    states = inputs + len(cell.nodes)
    links = [(gene.source, inputs + node) for node, genes in enumerate(cell.nodes) for gene in genes]
    outs = [(state, states) for state in cell.output]
    sizes = [(44.0, 34.0)] * (states + 1)
    places = layered(sizes, [*links, *outs], across=95.0, between=24.0, last=states).points
    names = [r"$c_{k-2}$", r"$c_{k-1}$", *(f"${n}$" for n in range(len(cell.nodes))), "$c_{k}$"]
    lines = [
        r"\begin{tikzpicture}[>=stealth, state/.style={draw, rounded corners=2pt, fill=black!4, minimum size=7mm},",
        r"    op/.style={->, very thick}, name/.style={midway, sloped, fill=white, inner sep=1pt, font=\tiny}]",
        rf"  \node[anchor=south west] at (0,0.6) {{\textbf{{{title}}}}};",
    ]
    for state, ((x, y), name) in enumerate(zip(places, names, strict=True)):
        lines.append(rf"  \node[state] (s{state}) at ({x * POINT:.2f},{-y * POINT:.2f}) {{{name}}};")
    seen: dict[tuple[int, int], int] = {}
    for (source, target), op in zip(links, (g.op for node in cell.nodes for g in node), strict=True):
        bend = 24 * seen.get((source, target), 0)  # two operations between the same two states must not hide each other
        seen[source, target] = seen.get((source, target), 0) + 1
        word = _escaped(op)
        lines.append(
            rf"  \draw[op, {_colour_name(op)}] (s{source}) to[bend left={bend}] node[name] {{{word}}} (s{target});"
        )
    lines += [rf"  \draw[->, black!35] (s{state}) -- (s{target});" for state, target in outs]
    return [*lines, r"\end{tikzpicture}"]


def _colour_name(op: str) -> str:
    """A colour's name for TeX: letters alone."""
    digits = dict(zip("0123456789", "zoabcdefgh", strict=True))
    return "op" + "".join(digits.get(c, c) for c in op if c != "_")


def _escaped(text: str) -> str:
    """`text` such that TeX prints exactly its characters, on one line."""
    return re.sub(r"[\\{}$&#%_^~]", lambda found: SPECIAL[found[0]], " ".join(text.split()))
