"""A derived cell as plain data, and its two written forms: strict JSON and the text of the DARTS authors.

A node holds any number of genes (operation, source state), none included (FairDARTS). The DARTS text is read by walking
its syntax tree; nothing in it is ever run.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from darts_core import io
from darts_core.errors import BadInput, unknown
from darts_core.space import KNOWN_OPS, MAX_NODES, CellSpec, SearchSpace

MAX_TEXT = 100_000  # bytes; a genotype of twelve nodes needs under 4,000
INPUTS = 2  # states from outside the cell; nodes are numbered from here on
SHORT = "this cell"


class Gene(NamedTuple):
    op: str
    source: int  # state: 0 and 1 are the cell inputs, 2 + i is node i


@dataclass(frozen=True)
class CellGenes:
    """Per node its genes, and the states that are concatenated into the cell's output."""

    nodes: tuple[tuple[Gene, ...], ...]
    output: tuple[int, ...]


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
                kind: {"nodes": [[[g.op, g.source] for g in node] for node in cell.nodes], "output": list(cell.output)}
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
        parts = []
        for kind, cell in self.cells.items():
            if any(len(node) != 2 for node in cell.nodes):
                raise BadInput(
                    SHORT, f"cells.{kind}", "the DARTS text holds exactly two genes per node", "export JSON instead"
                )
            genes = ", ".join(f"('{g.op}', {g.source})" for node in cell.nodes for g in node)
            output = cell.output
            contiguous = output == tuple(range(output[0], output[-1] + 1)) if output else False
            concat = f"range({output[0]}, {output[-1] + 1})" if contiguous else str(list(output))
            parts += [f"{kind}=[{genes}]", f"{kind}_concat={concat}"]
        return f"Genotype({', '.join(parts)})"

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
        if text.startswith("{"):
            return Genotype.from_json(io.loads(raw, where), where)
        return Genotype.parse(text, where)

    def dumps(self) -> str:
        """Readable JSON text, one line break at the end."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"


def random_genotype(space: SearchSpace, rng: random.Random) -> Genotype:
    """A derived cell drawn uniformly: per node `keep` of its edges, on each a legal operation other than `none`."""
    cells = {}
    for kind, cell in space.cells.items():
        nodes = []
        for node in range(cell.nodes):
            into = cell.edges_into(node)
            kept = sorted(rng.sample(into, min(cell.keep or len(into), len(into))))
            legal = {e: _derivable(cell, e) for e in kept}
            nodes.append(tuple(Gene(rng.choice(legal[e]), cell.edges[e][0]) for e in kept))
        cells[kind] = CellGenes(tuple(nodes), cell.output)
    return Genotype(space.name, cells)


def _derivable(cell: CellSpec, edge: int) -> list[str]:
    """Operations that derivation may choose on an edge."""
    return [op for op, ok in zip(cell.ops, cell.legal[edge], strict=True) if ok and op != "none"]


def _genes_from_json(data: Any, where: str, kind: str) -> CellGenes:
    if not isinstance(data, Mapping) or set(data) != {"nodes", "output"}:
        raise BadInput(where, f"cells.{kind}", "must have nodes and output", "export it again with format json")
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
        if not isinstance(node, list) or len(node) > INPUTS + MAX_NODES:
            raise BadInput(
                where, f"cells.{kind}.nodes[{i}]", "must be a list of [operation, source]", "correct the node"
            )
        built.append(tuple(_gene(pair, where, kind, i) for pair in node))
    return CellGenes(tuple(built), _output(data["output"], where, kind, len(nodes)))


def _gene(pair: Any, where: str, kind: str, node: int) -> Gene:
    field = f"cells.{kind}.nodes[{node}]"
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
        raise BadInput(where, field, "holds something that is not [operation, source]", "correct the node")
    op, source = pair
    if op not in KNOWN_OPS:
        raise unknown(where, f"operation in {field}", op, KNOWN_OPS)
    if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < INPUTS + node:
        raise BadInput(where, field, f"source {source!r} is not an earlier state", f"use 0 to {INPUTS + node - 1}")
    return Gene(op, source)


def _output(value: Any, where: str, kind: str, nodes: int) -> tuple[int, ...]:
    ok = isinstance(value, list) and 1 <= len(value) <= INPUTS + nodes and len({*map(str, value)}) == len(value)
    if not ok or any(isinstance(s, bool) or not isinstance(s, int) or not 0 <= s < INPUTS + nodes for s in value):
        raise BadInput(
            where, f"cells.{kind}.output", "must list states of the cell, each once", f"use 0 to {INPUTS + nodes - 1}"
        )
    return tuple(value)


def _genes_from_tree(genes: ast.expr, concat: ast.expr, where: str, kind: str) -> CellGenes:
    pairs = _literal(genes, where, kind)
    if not isinstance(pairs, list) or not pairs or len(pairs) % 2 or len(pairs) > 2 * MAX_NODES:
        raise BadInput(
            where, kind, "must be a list of two (operation, state) pairs per node", "compare with an exported genotype"
        )
    nodes = tuple(tuple(_gene(pair, where, kind, i // 2) for pair in pairs[i : i + 2]) for i in range(0, len(pairs), 2))
    return CellGenes(nodes, _output(_concat(concat, where, kind), where, kind, len(nodes)))


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
