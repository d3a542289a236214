"""Search spaces as data: which states a cell has, which edges join them, and which operations an edge may hold.

Plain data without torch, so that the run folder, the app and the notebooks can hold a space without a network.
Sources: DARTS (Liu et al. 2019, section 2.1); sharpDARTS (Hundt et al. 2019, and its code); S1 to S4 of RobustDARTS
(Zela et al. 2020); NAS-Bench-201 (Dong and Yang 2020).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb, prod
from typing import Any

import numpy as np

from darts_core.errors import BadInput, unknown

Edge = tuple[int, int]  # (source state, target state); states 0..inputs-1 come from outside, inputs + i is node i

DARTS_OPS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NASNET_OPS = ("sep_conv_7x7", "conv_7x1_1x7")  # of the cells of NASNet and AmoebaNet alone
NAS201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # in the original's order
MBCONV_OPS = (*(f"mbconv_{k}x{k}_e{e}" for k in (3, 5, 7) for e in (3, 6)), "skip_connect")  # ProxylessNAS
BENCH_OPS = ("noise", "nor_conv_1x1", "nor_conv_3x3")  # of S4 and of NAS-Bench-201
SHARP_OPS = (  # of sharpDARTS; its separable convolutions are those of DARTS
    "sharp_avg_pool_3x3", "sharp_dil_conv_3x3", "sharp_dil_conv_5x5", "flood_conv_3x3", "flood_conv_5x5",
    "dil_flood_conv_3x3", "choke_conv_3x3", "dil_choke_conv_3x3",
)  # fmt: skip
RNN_OPS = ("none", "tanh", "relu", "sigmoid", "identity")  # activation functions, in the original's order
CHOICE_OPS = tuple(f"choice_{number}" for number in range(16))  # candidates of a `Choice` in a module of the user's own
# The closed list of names that files may hold.
KNOWN_OPS = (*DARTS_OPS, *NASNET_OPS, *BENCH_OPS, *SHARP_OPS, *RNN_OPS[1:], *MBCONV_OPS[:-1], *CHOICE_OPS)
# Operations of convolutional cells: (N, C, H, W) to the same channels, at stride 1 or 2.
CONV_OPS = (*DARTS_OPS, *NASNET_OPS, *BENCH_OPS, *SHARP_OPS)
_LOW = str.maketrans("k-12", "\u2096\u208b\u2081\u2082")  # characters of a subscript
MAX_NODES = 12
MAX_OPS = 32


def state_words(state: int, inputs: int) -> str:
    """A state of a cell with so many inputs, as one says it to somebody who does not see the picture."""
    if state >= inputs:
        return f"node {state - inputs}"
    return {2: ("two cells back", "one cell back"), 1: ("the input",)}.get(inputs, [f"input {state}"] * inputs)[state]


@dataclass(frozen=True)
class CellSpec:
    """One kind of cell. Column `o` of every alpha row means `ops[o]`, for the whole run.

    `legal` has shape (edges, ops): an operation that an edge may not hold is masked, never removed, so layouts stay.
    `keep` is the number of edges kept per node when deriving (None: all). `output` lists the states concatenated.
    """

    inputs: int
    nodes: int
    ops: tuple[str, ...]
    edges: tuple[Edge, ...]
    legal: tuple[tuple[bool, ...], ...]
    keep: int | None = 2
    output: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(edges, ops), the shape of this cell's alphas."""
        return len(self.edges), len(self.ops)

    @property
    def states(self) -> int:
        return self.inputs + self.nodes

    def edges_into(self, node: int) -> list[int]:
        """Indices of the edges that end in intermediate node `node` (0-based), in order of their source."""
        return [e for e, (_, target) in enumerate(self.edges) if target == self.inputs + node]

    def state_name(self, state: int) -> str:
        """`state_label` for plain text that people read: its subscript is set low with characters of Unicode."""
        return re.sub(r"_\{(.+?)\}", lambda low: low[1].translate(_LOW), self.state_label(state))

    def state_label(self, state: int) -> str:
        """What people call a state: the two inputs by the cell they come from, nodes by their number."""
        if state >= self.inputs:
            return f"node {state - self.inputs}"
        return (
            {2: ("c_{k-2}", "c_{k-1}"), 1: ("input",)}.get(self.inputs, ())[state]
            if self.inputs <= 2
            else f"in {state}"
        )

    def state_words(self, state: int) -> str:
        """As the function of this name."""
        return state_words(state, self.inputs)

    def choices(self, edge: int) -> list[str]:
        """The operations from which a cell may be drawn on `edge`.

        Derivation never chooses `none` (DARTS, section 2.4). Where every edge is kept, `none` is how an edge is left
        out, so there it is a choice like the others (NAS-Bench-201).
        """
        legal = [op for op, ok in zip(self.ops, self.legal[edge], strict=True) if ok]
        return legal if self.keep is None else [op for op in legal if op != "none"]

    def legal_array(self) -> np.ndarray:
        """(edges, ops) bool."""
        return np.array(self.legal, dtype=bool).reshape(self.shape)


@dataclass(frozen=True)
class SearchSpace:
    """A name and its kinds of cell: {"normal": ..., "reduce": ...} for the convolutional space."""

    name: str
    cells: Mapping[str, CellSpec]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "cells": {kind: _cell_to_json(cell) for kind, cell in self.cells.items()}}

    @staticmethod
    def from_json(data: Any, where: str = "space") -> SearchSpace:
        """Read a space written by `to_json`.

        Raises:
            BadInput: a field is missing, of the wrong type, or describes no cell that can be built.
        """
        if not isinstance(data, Mapping) or set(data) != {"name", "cells"} or not isinstance(data["name"], str):
            raise BadInput(where, "space", "is not an object with name and cells", "write it with SearchSpace.to_json")
        if not isinstance(data["cells"], Mapping) or not 1 <= len(data["cells"]) <= 8:
            raise BadInput(where, "cells", "must name one to eight kinds of cell", 'for example {"normal": {...}}')
        return SearchSpace(data["name"], {str(k): _cell_from_json(c, where, str(k)) for k, c in data["cells"].items()})


def dag(inputs: int, nodes: int) -> tuple[Edge, ...]:
    """Every edge from an earlier state into each node, by target, then by source."""
    return tuple((source, inputs + node) for node in range(nodes) for source in range(inputs + node))


def conv_cell(nodes: int, ops: Sequence[str], keep: int | None = 2) -> CellSpec:
    """The two-input convolutional cell: every node sees all earlier states; all nodes are concatenated."""
    edges = dag(2, nodes)
    every = tuple((True,) * len(ops) for _ in edges)
    return CellSpec(2, nodes, tuple(ops), edges, every, keep, tuple(range(2, 2 + nodes)))


def dense_cell(nodes: int, ops: Sequence[str]) -> CellSpec:
    """The cell of NAS-Bench-201: one input, every edge kept, the last node is the output."""
    edges = dag(1, nodes)
    return CellSpec(1, nodes, tuple(ops), edges, tuple((True,) * len(ops) for _ in edges), None, (nodes,))


def recurrent_cell(nodes: int, ops: Sequence[str] = RNN_OPS) -> CellSpec:
    """The recurrent cell (DARTS, section 3.2): state 0 is made of the input and the hidden state before it, every node
    keeps one predecessor, and the new hidden state is the mean of all nodes.
    """
    edges = dag(1, nodes)
    every = tuple((True,) * len(ops) for _ in edges)
    return CellSpec(1, nodes, tuple(ops), edges, every, 1, tuple(range(1, nodes + 1)))


def chain_cell(blocks: int, ops: Sequence[str], reductions: Collection[int]) -> CellSpec:
    """A chain: block i is the edge from state i to state i + 1. One that changes the shape cannot be left out."""
    edges = tuple((i, i + 1) for i in range(blocks))
    legal = tuple(tuple(op != "skip_connect" or i not in reductions for op in ops) for i in range(blocks))
    return CellSpec(1, blocks, tuple(ops), edges, legal, None, (blocks,))


@dataclass(frozen=True)
class SpaceEntry:
    """A named space as people choose it: its operations, usual number of nodes and one sentence."""

    ops: tuple[str, ...]
    nodes: int
    doc: str
    inputs: int = 2
    edges: Mapping[str, str] = field(default_factory=dict)  # kind -> per edge the operations it may hold: S1
    recurrent: bool = False  # a recurrent cell, for text; else cells for images
    chain: bool = False  # a chain of blocks, each its own, in place of cells that are repeated
    keep: int | None = 2  # edges that a node of a cell with two inputs keeps; None: all
    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # "0-2" or "normal-0-2" -> what it may hold


_SHORT = {"m": "max_pool_3x3", "a": "avg_pool_3x3", "s": "skip_connect", "3": "sep_conv_3x3",
          "d": "dil_conv_3x3", "D": "dil_conv_5x5"}  # fmt: skip
# RobustDARTS, S1: the two strongest operations of each edge in two rounds of DARTS (Zela et al. 2020, appendix; their
# code, src/spaces). Edge by edge in our order; letters as above.
_S1 = {
    "normal": "sd sD sD s3 sd ms s3 s3 sd s3 ms sd dD dD",
    "reduce": "ma md ma ma sD ma m3 sd sD ma ma sD sD sD",
}

SPACES: Mapping[str, SpaceEntry] = {
    "darts": SpaceEntry(
        DARTS_OPS, 4, "The DARTS space: 8 operations on every edge, 4 nodes, normal and reduction cell."
    ),
    "s1": SpaceEntry(
        tuple(op for op in DARTS_OPS if op in _SHORT.values()), 4,
        "S1 of RobustDARTS: two operations per edge, others on every edge.", edges=_S1,
    ),
    "s2": SpaceEntry(
        ("skip_connect", "sep_conv_3x3"), 4, "S2 of RobustDARTS: skip or 3x3 separable convolution on every edge."
    ),
    "s3": SpaceEntry(
        ("none", "skip_connect", "sep_conv_3x3"), 4, "S3 of RobustDARTS: S2 with `none`."
    ),
    "s4": SpaceEntry(
        ("noise", "sep_conv_3x3"), 4, "S4 of RobustDARTS: 3x3 separable convolution, or noise that helps nobody."
    ),
    "sharp": SpaceEntry(
        ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "sharp_dil_conv_3x3", "flood_conv_3x3",
         "dil_flood_conv_3x3", "choke_conv_3x3", "dil_choke_conv_3x3"), 4,
        "sharpDARTS: 9 operations; convolutions with a wide (flood) or narrow (choke) middle.",
    ),
    "sharper": SpaceEntry(
        ("none", "max_pool_3x3", "sharp_avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7",
         "sharp_dil_conv_3x3", "sharp_dil_conv_5x5", "flood_conv_3x3", "flood_conv_5x5", "dil_flood_conv_3x3"), 4,
        "The larger space of sharpDARTS: 12 operations.",
    ),
    "tiny": SpaceEntry(
        ("max_pool_3x3", "skip_connect", "sep_conv_3x3"),
        2,
        "A teaching space: 3 operations, 2 nodes, read at a glance.",
    ),
    "nasbench201": SpaceEntry(
        NAS201_OPS, 3, "NAS-Bench-201: 5 operations on 6 edges, every edge kept; 15,625 cells.", inputs=1
    ),
    "nb3": SpaceEntry(
        ("none", "skip_connect", "nor_conv_3x3"), 3,
        "The cell of NAS-Bench-201 with 3 operations: 729 cells, every one of them trained and looked up.", inputs=1,
    ),
    "nb4": SpaceEntry(
        ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"), 3,
        "The cell of NAS-Bench-201 with 4 operations: 4,096 cells; `tiny build --ops 4` trains them.", inputs=1,
    ),
    "mbconv": SpaceEntry(
        MBCONV_OPS, 8, "ProxylessNAS: a chain of blocks, each of its own kernel and expansion, or left out.", inputs=1,
        chain=True,
    ),
    "darts-rnn": SpaceEntry(
        RNN_OPS, 8, "The recurrent DARTS space, for text: 8 nodes, each a function of one earlier state.",
        inputs=1, recurrent=True,
    ),
}  # fmt: skip


def space_named(
    name: str, nodes: int | None = None, reduce: bool = True, reductions: Collection[int] = ()
) -> SearchSpace:
    """The space called `name`, with `nodes` nodes per cell (None: its usual number).

    Args:
        reductions: of a chain, the blocks (from 0) that halve the image: these cannot be left out.

    `reduce=False` leaves the reduction cell out, for stacks that have none: alphas that no loss reaches would only
    drift with the weight decay. Spaces whose cells have one input never have one: fixed blocks reduce there.

    Raises:
        BadInput: the name is unknown or the number of nodes is out of range.
    """
    if name not in SPACES:
        raise unknown("", "space", name, SPACES)
    return space_from(name, SPACES[name], nodes, reduce, reductions)


def space_from(
    name: str,
    entry: SpaceEntry,
    nodes: int | None = None,
    reduce: bool = True,
    reductions: Collection[int] = (),
) -> SearchSpace:
    """`space_named` for a space that no list holds."""
    count = nodes if nodes else entry.nodes
    most = entry.nodes if entry.edges or entry.held else MAX_NODES
    if not 1 <= count <= most:
        raise BadInput("", "nodes", f"{count} nodes per cell is out of range for {name}", f"choose 1 to {most}")
    if entry.chain:
        return SearchSpace(name, {"chain": chain_cell(count, entry.ops, reductions)})
    if entry.recurrent:
        return SearchSpace(name, {"recurrent": recurrent_cell(count, entry.ops)})
    if entry.inputs == 1:
        return SearchSpace(name, {"normal": _holding(dense_cell(count, entry.ops), "normal", entry.held)})
    kinds = ("normal", "reduce") if reduce else ("normal",)
    cells = {kind: _restricted(conv_cell(count, entry.ops, entry.keep), entry.edges.get(kind)) for kind in kinds}
    return SearchSpace(name, {kind: _holding(cell, kind, entry.held) for kind, cell in cells.items()})


def _holding(cell: CellSpec, kind: str, held: Mapping[str, tuple[str, ...]]) -> CellSpec:
    """The cell with edges restricted by name; a name with the kind of cell goes before one without."""
    rows = []
    for edge, row in zip(cell.edges, cell.legal, strict=True):
        short = f"{edge[0]}-{edge[1]}"
        some = held.get(f"{kind}-{short}", held.get(short))
        rows.append(row if some is None else tuple(op in some for op in cell.ops))
    return replace(cell, legal=tuple(rows))


def _restricted(cell: CellSpec, letters: str | None) -> CellSpec:
    """The cell with the operations that `letters` name, edge by edge."""
    if letters is None:
        return cell
    allowed = [{_SHORT[letter] for letter in word} for word in letters.split()]
    rows = tuple(tuple(op in some for op in cell.ops) for some, _ in zip(allowed, cell.edges, strict=False))
    return replace(cell, legal=rows)


def count_genotypes(cell: CellSpec) -> int:
    """How many distinct derived cells a spec holds: per node, choices of `keep` edges times operations on them.

    `none` is never derived (paper, section 2.4) but where every edge is kept. For the DARTS cell: prod over nodes of
    C(i+2, 2) * 7^2; for NAS-Bench-201: 5^6.
    """
    derivable = [len(cell.choices(e)) for e in range(len(cell.edges))]
    total = 1
    for node in range(cell.nodes):
        into = cell.edges_into(node)
        keep = min(cell.keep or len(into), len(into))
        if len({derivable[e] for e in into}) == 1:
            total *= comb(len(into), keep) * derivable[into[0]] ** keep
        else:
            total *= _choices([derivable[e] for e in into], keep)
    return total


def meaning(cell: CellSpec, ops: Sequence[str]) -> str:
    """What a cell of one input computes, as text that equal functions share: for counting distinct cells.

    `ops[e]` stands on edge e. An edge that is `none`, or that leaves a node without input, adds nothing; a skip is its
    source; the order of a sum does not matter. "" is a cell that passes nothing on.
    """
    terms: list[tuple[str, ...]] = [("x",)] * cell.inputs  # per state, the sorted terms of its sum
    for node in range(cell.nodes):
        found: list[str] = []
        for e in cell.edges_into(node):
            source = terms[cell.edges[e][0]]
            if ops[e] == "none" or not source:
                continue
            found += source if ops[e] == "skip_connect" else [f"{ops[e]}({'+'.join(source)})"]
        terms.append(tuple(sorted(found)))
    return "+".join(terms[cell.output[-1]])


def _choices(options: Sequence[int], keep: int) -> int:
    """Sum over all `keep`-subsets of the product of their options (an elementary symmetric polynomial)."""
    from itertools import combinations

    return sum(prod(subset) for subset in combinations(options, keep))


def _cell_to_json(cell: CellSpec) -> dict[str, Any]:
    return {
        "inputs": cell.inputs,
        "nodes": cell.nodes,
        "ops": list(cell.ops),
        "edges": [list(edge) for edge in cell.edges],
        "legal": [list(row) for row in cell.legal],
        "keep": cell.keep,
        "output": list(cell.output),
    }


def _cell_from_json(data: Any, where: str, kind: str) -> CellSpec:
    field: Callable[[str], str] = lambda name: f"cells.{kind}.{name}"  # noqa: E731
    expected = {"inputs", "nodes", "ops", "edges", "legal", "keep", "output"}
    if not isinstance(data, Mapping) or set(data) != expected:
        raise BadInput(
            where,
            f"cells.{kind}",
            f"must have exactly the fields {', '.join(sorted(expected))}",
            "compare with a new run",
        )
    inputs, nodes = (_whole(data[name], where, field(name), 1, MAX_NODES) for name in ("inputs", "nodes"))
    ops = data["ops"]
    if not isinstance(ops, list) or not 1 <= len(ops) <= MAX_OPS or len(set(map(str, ops))) != len(ops):
        raise BadInput(where, field("ops"), "must be a list of distinct operation names", "compare with a new run")
    for op in ops:
        if op not in KNOWN_OPS:
            raise unknown(where, "operation", str(op), KNOWN_OPS)
    states = inputs + nodes
    edges = _pairs(data["edges"], where, field("edges"))
    if not edges or any(not (0 <= s < t and inputs <= t < states) for s, t in edges) or len(set(edges)) != len(edges):
        raise BadInput(
            where, field("edges"), "must join an earlier state to a later node, each once", "compare with a new run"
        )
    legal = data["legal"]
    if (
        not isinstance(legal, list)
        or len(legal) != len(edges)
        or any(
            not isinstance(row, list) or len(row) != len(ops) or any(not isinstance(x, bool) for x in row)
            for row in legal
        )
    ):
        raise BadInput(
            where, field("legal"), f"must be {len(edges)} rows of {len(ops)} true or false", "compare with a new run"
        )
    keep = data["keep"] if data["keep"] is None else _whole(data["keep"], where, field("keep"), 1, MAX_NODES)
    if not isinstance(data["output"], list):
        raise BadInput(where, field("output"), "must be a list of states", "compare with a new run")
    output = tuple(_whole(state, where, field("output"), 0, states - 1) for state in data["output"])
    return CellSpec(inputs, nodes, tuple(ops), edges, tuple(tuple(row) for row in legal), keep, output)


def _whole(value: Any, where: str, field: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadInput(where, field, f"must be a whole number from {low} to {high}", "correct it")
    return value


def _pairs(value: Any, where: str, field: str) -> tuple[Edge, ...]:
    if (
        not isinstance(value, list)
        or len(value) > 512
        or any(
            not isinstance(p, list) or len(p) != 2 or any(isinstance(x, bool) or not isinstance(x, int) for x in p)
            for p in value
        )
    ):
        raise BadInput(where, field, "must be a list of pairs of state numbers", "compare with a new run")
    return tuple((p[0], p[1]) for p in value)
