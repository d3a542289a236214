"""Which operations an edge may hold while a search runs: the space says it, and a person may pin, ban and reset.

An edge of a kind of cell is named "<kind>-<source>-<target>" ("normal-0-2", states as in `CellSpec.edges`), in orders,
addresses and files alike. NumPy only.
"""

from __future__ import annotations

import numpy as np

from darts_core.errors import BadInput, unknown
from darts_core.events import Scalar, order_words
from darts_core.space import CellSpec, Edge, SearchSpace

ON_EDGES = ("pin", "ban", "reset")  # orders about an edge


def edge_name(kind: str, edge: Edge) -> str:
    """ "normal-0-2"."""
    return f"{kind}-{edge[0]}-{edge[1]}"


def edge_named(space: SearchSpace, name: object) -> tuple[str, int]:
    """Kind of cell and index of the edge called `name`; BadInput when the space has none of that name."""
    known = {
        edge_name(kind, edge): (kind, e) for kind, cell in space.cells.items() for e, edge in enumerate(cell.edges)
    }
    if not isinstance(name, str) or name not in known:
        raise unknown("", "edge", str(name)[:60], known)
    return known[name]


def said_of_edge(space: SearchSpace | None, kind: str, name: str | None, value: Scalar) -> str:
    """`order_words`, an edge called by what stands at its ends in the picture: "ban skip_connect on input to node 1".

    Words of an order that is about no edge of the space, or without a space, are those of `order_words`.
    """
    try:
        if space is None or kind not in ON_EDGES:
            return order_words(kind, name, value)
        cell_kind, edge = edge_named(space, name)
    except BadInput:
        return order_words(kind, name, value)
    cell = space.cells[cell_kind]
    source, target = (cell.state_name(state) for state in cell.edges[edge])
    where = f"{source} to {target}" + (f", {cell_kind} cell" if len(space.cells) > 1 else "")
    return order_words(kind, where, value)


def row_after(cell: CellSpec, edge: int, row: np.ndarray, order: str, op: object = None) -> np.ndarray:
    """What `edge` may hold after an order, (ops,) bool; `row`: what it may hold now.

    pin: only `op`. ban: all of now but `op`. reset: as the space says. An edge always keeps an operation that the
    derived cell can hold, so `none` is no choice of its own (paper, section 2.4: `none` is never derived).

    Raises:
        BadInput: the space does not have `op` on this edge, or the edge would be left without an operation.
    """
    allowed = cell.legal_array()[edge]
    if order == "reset":
        return allowed
    name = edge_name("edge", cell.edges[edge])
    if op not in cell.ops:
        raise unknown("", "operation", str(op)[:60], cell.ops)
    column = cell.ops.index(str(op))
    if not allowed[column]:
        raise BadInput("", name, f"{op} is no operation of this edge in this space", "choose another operation")
    if order == "ban":
        after = row & (np.arange(len(row)) != column)
        if not after[derivable(cell)].any():
            fix = "reset the edge first, or pin another operation"
            raise BadInput("", name, f"banning {op} would leave it without an operation", fix)
        return after
    if op == "none":
        fix = "pin an operation that it may hold"
        raise BadInput("", name, "a derived cell never holds none, so it cannot be pinned", fix)
    return np.arange(len(row)) == column


def derivable(cell: CellSpec) -> np.ndarray:
    """(ops,) bool: the operations that a derived cell may hold."""
    return np.array([op != "none" for op in cell.ops])
