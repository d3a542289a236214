"""Graphviz: the DOT text of a derived cell, and files rendered from it (SVG, PDF, PNG).

Rendered by the system's `dot`; where there is none, by pygraphviz, whose wheels carry Graphviz. Both run as a process
of their own with a time limit. Labels come from the closed list of operations and from state numbers alone.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from darts_core.errors import BadInput
from darts_core.genotype import CellGenes, Genotype
from darts_core.view.layout import output_name
from darts_core.view.palette import FILL, INK, KIND_TITLES, LINE, colour

if TYPE_CHECKING:
    from graphviz import Digraph

FORMATS = ("svg", "pdf", "png")
SECONDS = 20.0  # a cell takes well under a second; this is for machines that are very busy

# What the child process runs when pygraphviz draws: DOT on standard input, the file on standard output.
_PYGRAPHVIZ = """
import sys, pygraphviz
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode("utf-8"))
sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog="dot"))
"""


def genotype_dot(genotype: Genotype, kinds: Sequence[str] | None = None) -> str:
    """DOT text with one cluster per kind of cell; edges carry their operation as a label in its colour.

    Raises:
        BadInput: a kind or an operation is unknown.
    """
    from graphviz import Digraph  # 0.1 s, and only files and notebooks need it

    graph = Digraph("cell", graph_attr={"rankdir": "LR", "nodesep": "0.25", "ranksep": "0.9", "fontname": "Helvetica"})
    words = {"fontname": "Helvetica", "fontcolor": INK}
    graph.attr("node", shape="box", style="rounded,filled", fillcolor=FILL, color=LINE, **words)
    graph.attr("edge", fontsize="11", penwidth="2.2", **words)
    for kind in genotype.cells if kinds is None else kinds:
        if kind not in genotype.cells:
            raise BadInput("drawing", "kind", f"there is no {kind!r} cell", f"choose from {', '.join(genotype.cells)}")
        number = list(genotype.cells).index(kind)
        cluster = Digraph(f"cluster_{number}")
        cluster.attr(label=KIND_TITLES.get(kind, f"Cell {number}"), color="transparent", fontsize="15", labeljust="l")
        _add_cell(cluster, f"s{number}_", genotype.cells[kind], output_name(kind))
        graph.subgraph(cluster)
    return graph.source


def _add_cell(graph: Digraph, prefix: str, genes: CellGenes, output: tuple[str, str]) -> None:
    outside = ("<c<SUB>k-2</SUB>>", "<c<SUB>k-1</SUB>>") if genes.inputs == 2 else ("input",)
    for state in range(genes.inputs + len(genes.nodes)):
        label = outside[state] if state < genes.inputs else str(state - genes.inputs)
        graph.node(f"{prefix}{state}", label=label)
    text, low = output
    graph.node(f"{prefix}out", label=f"<{text}<SUB>{low}</SUB>>" if low else text)
    for node, kept in enumerate(genes.nodes):
        for gene in kept:
            paint = colour(gene.op)  # raises for a name that is not in the closed list
            graph.edge(f"{prefix}{gene.source}", f"{prefix}{genes.inputs + node}", label=f" {gene.op} ", color=paint)
    for state in genes.output:
        graph.edge(f"{prefix}{state}", f"{prefix}out", color=LINE, penwidth="1.2", arrowsize="0.6")


def render(source: str, format: str = "svg", seconds: float = SECONDS) -> bytes:
    """The picture that Graphviz draws from DOT text.

    Args:
        format: "svg", "pdf" or "png".
        seconds: time limit.

    Raises:
        BadInput: the format is unknown, Graphviz is not installed, fails, or takes longer than `seconds`.
    """
    if format not in FORMATS:
        raise BadInput("export", "format", f"{format!r} is not {', '.join(FORMATS)}", "choose one of these")
    extra = ["-Gdpi=160"] if format == "png" else []
    return _run(source, format, extra, seconds)


def placed(
    items: int, links: Sequence[tuple[int, int]], sizes: Sequence[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """Middles of the boxes of a graph as `dot` places them from left to right, y downwards, in points.

    Raises:
        BadInput: as `render`.
    """
    inch = 72
    nodes = "".join(f"n{i} [width={w / inch:.3f}, height={h / inch:.3f}];" for i, (w, h) in enumerate(sizes))
    arrows = "".join(f"n{a} -> n{b};" for a, b in links)
    graph = f"digraph {{rankdir=LR; ranksep=1.2; nodesep=0.5; node [fixedsize=true, shape=box]; {nodes}{arrows}}}"
    lines = [line.split() for line in _run(graph, "plain", [], SECONDS).decode().splitlines()]
    at = {words[1]: (inch * float(words[2]), -inch * float(words[3])) for words in lines if words[0] == "node"}
    return tuple(at[f"n{i}"] for i in range(items))


def _run(source: str, format: str, extra: list[str], seconds: float) -> bytes:
    command = _command(format, extra)
    try:
        done = subprocess.run(command, input=source.encode("utf-8"), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        what = f"took longer than {seconds:g} s"
        raise BadInput("export", "Graphviz", what, "try again, or export DOT text") from error
    if done.returncode or not done.stdout:
        said = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        raise BadInput("export", "Graphviz", f"drew nothing ({said[:200]})", "export DOT text instead")
    return done.stdout


def _command(format: str, extra: list[str]) -> list[str]:
    if system := shutil.which("dot"):
        return [system, f"-T{format}", *extra]
    if importlib.util.find_spec("pygraphviz"):
        return [sys.executable, "-c", _PYGRAPHVIZ, format]
    fix = "install it (apt install graphviz, or pip install pygraphviz), or export DOT text"
    raise BadInput("export", "Graphviz", "is not installed", fix)
