"""A derived cell as plain data, and its two written forms: strict JSON and the text of the DARTS authors.

A node holds any number of genes (operation, source state), none included (FairDARTS). The DARTS text is read by walking
its syntax tree; nothing in it is ever run.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.space import KNOWN_OPS, MAX_NODES, CellSpec, SearchSpace

MAX_TEXT = 100_000  # bytes; a genotype of twelve nodes needs under 4,000
INPUTS = 2  # states from outside a DARTS cell; nodes are numbered from here on
MAX_GENES = INPUTS + MAX_NODES  # per node
SHORT = "this cell"
RECURRENT = "recurrent"  # the one kind of cell that a text model has


class Gene(NamedTuple):
    op: str
    source: int  # state: with two inputs, 0 and 1 are these and 2 + i is node i


@dataclass(frozen=True)
class CellGenes:
    """Per node its genes, the states that make the cell's output, and how many states come from outside.

    States 0 to `inputs - 1` come from outside, `inputs + i` is node i. A DARTS cell has two inputs, a cell of
    NAS-Bench-201, a chain and a recurrent cell one.
    """

    nodes: tuple[tuple[Gene, ...], ...]
    output: tuple[int, ...]
    inputs: int = INPUTS


@dataclass(frozen=True)
class Genotype:
    """A derived architecture: one `CellGenes` per kind of cell."""

    space: str
    cells: Mapping[str, CellGenes]

    def count(self, op: str, kind: str = "normal") -> int:
        """How many edges of the cell `kind` hold `op`."""
        return sum(gene.op == op for node in self.cells[kind].nodes for gene in node)

    def to_json(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "cells": {
                kind: {
                    "nodes": [[[g.op, g.source] for g in node] for node in cell.nodes],
                    "output": list(cell.output),
                    **({"inputs": cell.inputs} if cell.inputs != INPUTS else {}),
                }
                for kind, cell in self.cells.items()
            },
        }

    @staticmethod
    def from_json(data: Any, where: str = "genotype") -> Genotype:
        """Read what `to_json` wrote.

        Raises:
            BadInput: names the field that is wrong.
        """
        if not isinstance(data, Mapping) or set(data) != {"space", "cells"} or not isinstance(data["space"], str):
            raise BadInput(
                where, "genotype", "must be an object with space and cells", "export it again with format json"
            )
        cells = data["cells"]
        if not isinstance(cells, Mapping) or not 1 <= len(cells) <= 8 or not all(isinstance(k, str) for k in cells):
            raise BadInput(where, "cells", "must name one to eight kinds of cell", "export it again with format json")
        return Genotype(data["space"], {kind: _genes_from_json(cell, where, kind) for kind, cell in cells.items()})

    def text(self) -> str:
        """The form of the DARTS authors, `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), ...)`.

        Raises:
            BadInput: the form cannot hold this cell (a node without exactly two genes).
        """
        if set(self.cells) == {RECURRENT}:
            return self._recurrent_text()
        parts = []
        for kind, cell in self.cells.items():
            if cell.inputs != INPUTS or any(len(node) != 2 for node in cell.nodes):
                what = "the DARTS text holds cells of two inputs with exactly two genes per node"
                raise BadInput(SHORT, f"cells.{kind}", what, "export JSON instead")
            genes = ", ".join(f"('{g.op}', {g.source})" for node in cell.nodes for g in node)
            parts += [f"{kind}=[{genes}]", f"{kind}_concat={_concat_text(cell.output)}"]
        return f"Genotype({', '.join(parts)})"

    def _recurrent_text(self) -> str:
        """`Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ...], concat=range(1, 9))`: one gene per node."""
        cell = self.cells[RECURRENT]
        if any(len(node) != 1 for node in cell.nodes):
            what = "the DARTS text holds recurrent cells with exactly one gene per node"
            raise BadInput(SHORT, f"cells.{RECURRENT}", what, "export JSON instead")
        genes = ", ".join(f"('{g.op}', {g.source})" for node in cell.nodes for g in node)
        return f"Genotype({RECURRENT}=[{genes}], concat={_concat_text(cell.output)})"

    @staticmethod
    def parse(text: str, where: str = "genotype", space: str = "darts") -> Genotype:
        """Read the DARTS text by walking its syntax tree, never running it.

        Raises:
            BadInput: the text is something else, or names an unknown operation or a state that does not exist yet.
        """
        if len(text) > MAX_TEXT:
            raise BadInput(where, "text", f"is longer than {MAX_TEXT} characters", "give one genotype only")
        try:
            body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadInput(
                where, "text", "is not a genotype", "write Genotype(normal=[...], normal_concat=range(2, 6), ...)"
            ) from error
        if (
            not isinstance(body, ast.Call)
            or not isinstance(body.func, ast.Name)
            or body.func.id != "Genotype"
            or body.args
        ):
            raise BadInput(
                where, "text", "is not Genotype(...)", "write Genotype(normal=[...], normal_concat=range(2, 6), ...)"
            )
        fields = {k.arg: k.value for k in body.keywords if k.arg}
        if set(fields) == {RECURRENT, "concat"} and len(fields) == len(body.keywords):
            return Genotype("darts-rnn", {RECURRENT: _recurrent_genes(fields[RECURRENT], fields["concat"], where)})
        kinds = [name for name in fields if not name.endswith("_concat")]
        if (
            not kinds
            or len(fields) != len(body.keywords)
            or set(fields) != {f for k in kinds for f in (k, f"{k}_concat")}
        ):
            raise BadInput(
                where, "text", "needs name=[...] and name_concat=... for each cell", "compare with an exported genotype"
            )
        return Genotype(
            space, {kind: _genes_from_tree(fields[kind], fields[f"{kind}_concat"], where, kind) for kind in kinds}
        )

    @staticmethod
    def read(path: str | Path) -> Genotype:
        """Read a file of either form.

        Raises:
            BadInput: the file is missing, too large, or neither form.
        """
        raw = io.read_bytes(Path(path), MAX_TEXT)
        where = str(path)
        try:
            text = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise BadInput(where, "file", "is not text", "give a genotype as JSON or DARTS text") from error
        return Genotype.from_text(text, where)

    @staticmethod
    def from_text(text: str, where: str = "genotype") -> Genotype:
        """A genotype written in either form: JSON or DARTS text.

        Raises:
            BadInput: it is neither.
        """
        text = text.strip()
        if text.startswith("{"):
            return Genotype.from_json(io.loads(text.encode(), where), where)
        return Genotype.parse(text, where)

    def dumps(self) -> str:
        """Readable JSON text, one line break at the end."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"


def space_of(genotype: Genotype) -> SearchSpace:
    """A genotype as a space that holds it alone: its edges, and on each the operations that it has there.

    So whatever can draw or describe a search can draw a fixed cell.

    Raises:
        BadInput: a kind of cell has no operation at all.
    """
    return SearchSpace(genotype.space, {kind: _spec_of(cell, kind) for kind, cell in genotype.cells.items()})


def _spec_of(cell: CellGenes, kind: str) -> CellSpec:
    held: dict[tuple[int, int], set[str]] = {}
    for node, genes in enumerate(cell.nodes):
        for gene in genes:
            held.setdefault((gene.source, cell.inputs + node), set()).add(gene.op)
    if not held:
        raise BadInput("genotype", f"cells.{kind}", "holds no operation at all", "give a cell that computes something")
    edges = tuple(sorted(held, key=lambda edge: (edge[1], edge[0])))
    ops = tuple(op for op in KNOWN_OPS if any(op in there for there in held.values()))
    legal = tuple(tuple(op in held[edge] for op in ops) for edge in edges)
    return CellSpec(cell.inputs, len(cell.nodes), ops, edges, legal, None, cell.output)


def random_genotype(space: SearchSpace, rng: random.Random) -> Genotype:
    """A cell drawn uniformly: per node `keep` of its edges, on each a legal operation other than `none`.

    Where every edge is kept, `none` is drawn like the others: it is how such a space leaves an edge out.
    """
    cells = {}
    for kind, cell in space.cells.items():
        nodes = []
        for node in range(cell.nodes):
            into = cell.edges_into(node)
            kept = sorted(rng.sample(into, min(cell.keep or len(into), len(into))))
            drawn = [(rng.choice(cell.choices(e)), cell.edges[e][0]) for e in kept]
            nodes.append(tuple(Gene(op, source) for op, source in drawn if op != "none"))
        cells[kind] = CellGenes(tuple(nodes), cell.output, cell.inputs)
    return Genotype(space.name, cells)


def every_genotype(space: SearchSpace) -> Iterator[Genotype]:
    """All cells of a space with one kind of cell that keeps every edge; the last edge changes fastest.

    Number i of the list, written with one digit per edge, has at digit e the operation's place in `choices(e)`.
    """
    ((kind, cell),) = space.cells.items()
    for ops in product(*(cell.choices(e) for e in range(len(cell.edges)))):
        yield genotype_of(space.name, kind, cell, ops)


def genotype_of(space: str, kind: str, cell: CellSpec, ops: Sequence[str]) -> Genotype:
    """The genotype that has `ops[e]` on every edge e (`none`: no edge)."""
    into = (cell.edges_into(node) for node in range(cell.nodes))
    nodes = tuple(tuple(Gene(ops[e], cell.edges[e][0]) for e in edges if ops[e] != "none") for edges in into)
    return Genotype(space, {kind: CellGenes(nodes, cell.output, cell.inputs)})


def ops_of(cell: CellSpec, genes: CellGenes) -> tuple[str, ...]:
    """The operation on every edge of a cell, `none` where it has none: the inverse of `genotype_of`.

    Raises:
        BadInput: the genes belong to another cell, or put two operations on one edge.
    """
    found = ["none"] * len(cell.edges)
    for node, of_node in enumerate(genes.nodes):
        for gene in of_node:
            edge = (gene.source, cell.inputs + node)
            if edge not in cell.edges or found[cell.edges.index(edge)] != "none":
                raise BadInput("genotype", f"node {node}", f"cannot hold {gene.op} of state {gene.source}", "see space")
            found[cell.edges.index(edge)] = gene.op
    return tuple(found)


def _genes_from_json(data: Any, where: str, kind: str) -> CellGenes:
    if not isinstance(data, Mapping) or set(data) - {"inputs"} != {"nodes", "output"}:
        raise BadInput(where, f"cells.{kind}", "must have nodes and output", "export it again with format json")
    inputs = data.get("inputs", INPUTS)
    if isinstance(inputs, bool) or not isinstance(inputs, int) or not 1 <= inputs <= INPUTS:
        raise BadInput(where, f"cells.{kind}.inputs", "must be 1 or 2", "a DARTS cell has two inputs")
    nodes = data["nodes"]
    if not isinstance(nodes, list) or not 1 <= len(nodes) <= MAX_NODES:
        raise BadInput(
            where,
            f"cells.{kind}.nodes",
            f"must be a list of 1 to {MAX_NODES} nodes",
            "export it again with format json",
        )
    built = []
    for i, node in enumerate(nodes):
        if not isinstance(node, list) or len(node) > MAX_GENES:
            raise BadInput(
                where, f"cells.{kind}.nodes[{i}]", "must be a list of [operation, source]", "correct the node"
            )
        built.append(tuple(_gene(pair, where, kind, i, inputs) for pair in node))
    return CellGenes(tuple(built), _output(data["output"], where, kind, len(nodes), inputs), inputs)


def _gene(pair: Any, where: str, kind: str, node: int, inputs: int = INPUTS) -> Gene:
    field = f"cells.{kind}.nodes[{node}]"
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
        raise BadInput(where, field, "holds something that is not [operation, source]", "correct the node")
    op, source = pair
    if op not in KNOWN_OPS:
        raise unknown(where, f"operation in {field}", op, KNOWN_OPS)
    if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < inputs + node:
        raise BadInput(where, field, f"source {source!r} is not an earlier state", f"use 0 to {inputs + node - 1}")
    return Gene(op, source)


def _output(value: Any, where: str, kind: str, nodes: int, inputs: int = INPUTS) -> tuple[int, ...]:
    states = inputs + nodes
    ok = isinstance(value, list) and 1 <= len(value) <= states and len({*map(str, value)}) == len(value)
    if not ok or any(isinstance(s, bool) or not isinstance(s, int) or not 0 <= s < states for s in value):
        what = "must list states of the cell, each once"
        raise BadInput(where, f"cells.{kind}.output", what, f"use 0 to {states - 1}")
    return tuple(value)


def _genes_from_tree(genes: ast.expr, concat: ast.expr, where: str, kind: str) -> CellGenes:
    pairs = _literal(genes, where, kind)
    if not isinstance(pairs, list) or not pairs or len(pairs) % 2 or len(pairs) > 2 * MAX_NODES:
        raise BadInput(
            where, kind, "must be a list of two (operation, state) pairs per node", "compare with an exported genotype"
        )
    nodes = tuple(tuple(_gene(pair, where, kind, i // 2) for pair in pairs[i : i + 2]) for i in range(0, len(pairs), 2))
    return CellGenes(nodes, _output(_concat(concat, where, kind), where, kind, len(nodes)))


def _recurrent_genes(genes: ast.expr, concat: ast.expr, where: str) -> CellGenes:
    pairs = _literal(genes, where, RECURRENT)
    if not isinstance(pairs, list) or not 1 <= len(pairs) <= MAX_NODES:
        what = "must be a list of one (operation, state) pair per node"
        raise BadInput(where, RECURRENT, what, "compare with an exported genotype")
    nodes = tuple((_gene(pair, where, RECURRENT, i, 1),) for i, pair in enumerate(pairs))
    output = _output(_concat(concat, where, RECURRENT), where, RECURRENT, len(nodes), 1)
    return CellGenes(nodes, output, 1)


def _concat_text(output: tuple[int, ...]) -> str:
    """`range(2, 6)`, or a list where the states are not in a row."""
    in_a_row = output == tuple(range(output[0], output[-1] + 1)) if output else False
    return f"range({output[0]}, {output[-1] + 1})" if in_a_row else str(list(output))


def _concat(tree: ast.expr, where: str, kind: str) -> Any:
    """`range(a, b)` or a list of states."""
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "range" and not tree.keywords:
        bounds = [_literal(arg, where, f"{kind}_concat") for arg in tree.args]
        if len(bounds) == 2 and all(isinstance(b, int) and 0 <= b <= 2 * MAX_NODES for b in bounds):
            return list(range(*bounds))
        raise BadInput(
            where, f"{kind}_concat", "must be range(first, last + 1) or a list of states", "for example range(2, 6)"
        )
    return _literal(tree, where, f"{kind}_concat")


def _literal(tree: ast.expr, where: str, field: str) -> Any:
    try:
        return ast.literal_eval(tree)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadInput(
            where, field, "holds something that is not plain data", "use names in quotes, numbers and lists only"
        ) from error
