"""Where the parts of a cell are drawn: fixed boxes for its states, and for every edge a port of its own on two of them.

Nothing here moves while a search runs; only the bands inside the ribbons do. Lengths are in drawing units (pixels at
natural size), x to the right and y downwards. The same numbers serve the page, the files and the notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from darts_core.genotype import RECURRENT, CellGenes
from darts_core.space import CellSpec, dag

Point = tuple[float, float]
Link = tuple[int, int]  # from item to item

BOX = 44.0  # width of the box of a state
PORT = 19.0  # distance between two ports of one box
MARGIN = 18.0

# Cells whose nodes see all earlier states, by number of nodes. Found once by simulated annealing over ribbons that run
# through boxes that are not theirs, that hide one another, or that are steep; written down because nodes never move.
FIXED: dict[int, tuple[Point, ...]] = {
    1: ((40, 80), (40, 240), (320, 160)),
    2: ((40, 101), (40, 301), (250, 146), (470, 124)),
    3: ((40, 74), (40, 272), (152, 184), (425, 282), (560, 148)),
    4: ((40, 76), (40, 358), (252, 157), (361, 263), (531, 99), (650, 234)),
    5: ((40, 76), (40, 348), (211, 261), (301, 134), (510, 354), (722, 72), (850, 187)),
}


class Box(NamedTuple):
    """A state: its name is `text` with the subscript `sub`; (x, y) is the middle."""

    text: str
    sub: str
    x: float
    y: float
    width: float
    height: float


class Line(NamedTuple):
    """An edge from the right side of its source (x0, y0) to the left side of its target (x1, y1)."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Layout:
    """Boxes by state and lines by edge, inside a view box from (0, 0) to (width, height)."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "height": self.height,
            "boxes": [box._asdict() for box in self.boxes],
            "lines": [list(line) for line in self.lines],
        }


@lru_cache(maxsize=64)
def cell_layout(cell: CellSpec) -> Layout:
    """Positions and ports of a cell, moved so that everything lies inside the view box."""
    points = positions(cell)
    heights = [max(34.0, PORT * busiest + 8) for busiest in _busiest(cell)]
    left = min(x for x, _ in points) - BOX / 2 - MARGIN
    top = min(y - h / 2 for (_, y), h in zip(points, heights, strict=True)) - MARGIN
    points = tuple((round(x - left, 1), round(y - top, 1)) for x, y in points)
    boxes = tuple(Box(*state_name(cell, state), x, y, BOX, heights[state]) for state, (x, y) in enumerate(points))
    width = max(box.x for box in boxes) + BOX / 2 + MARGIN
    height = max(box.y + box.height / 2 for box in boxes) + MARGIN
    return Layout(width, height, boxes, ports(cell, points))


def state_name(cell: CellSpec, state: int) -> tuple[str, str]:
    """The name inside a box as (text, subscript): ("c", "k-2"), ("c", "k-1"), ("0", ""), ("in", "")."""
    if state >= cell.inputs:
        return str(state - cell.inputs), ""
    label = cell.state_label(state)
    return ("c", label[3:-1]) if label.startswith("c_{") else ({"input": "in"}.get(label, label), "")


def output_name(kind: str) -> tuple[str, str]:
    """What a cell of this kind gives, as (text, subscript): a recurrent one its new hidden state h, others c_k."""
    return ("h", "") if kind == RECURRENT else ("c", "k")


def positions(cell: CellSpec) -> tuple[Point, ...]:
    """The middle of every state's box, in order of states."""
    if cell.edges == dag(cell.inputs, cell.nodes):
        return FIXED[cell.nodes] if cell.inputs == 2 and cell.nodes in FIXED else staggered(cell.inputs, cell.nodes)
    return _graphviz_positions(cell) or _layered_positions(cell)


def staggered(inputs: int, nodes: int) -> tuple[Point, ...]:
    """Any number of nodes that see all earlier states: one column each, heights spread so that ribbons pass between.

    Heights follow the van der Corput sequence (1/2, 1/4, 3/4, 1/8, ...): near neighbours in the row are far apart in
    height, and no three of them lie on a line that a ribbon would have to share.
    """
    tall = max(320.0, 46.0 * (inputs + nodes))
    first = [(40.0, tall * (i + 0.5) / inputs) for i in range(inputs)]
    return (*first, *((40 + 150.0 * (i + 1), tall * van_der_corput(i + 1)) for i in range(nodes)))


def van_der_corput(n: int) -> float:
    """The bits of n mirrored behind the point: 1/2, 1/4, 3/4, 1/8, 5/8, ..."""
    value, unit = 0.0, 0.5
    while n:
        value, unit, n = value + unit * (n & 1), unit / 2, n >> 1
    return value


def ports(cell: CellSpec, points: Sequence[Point]) -> tuple[Line, ...]:
    """Each edge's own two ends: ports of a box lie `PORT` apart, sorted by slope so that ribbons do not cross there."""

    def slope(edge: int) -> float:
        (x0, y0), (x1, y1) = (points[state] for state in cell.edges[edge])
        return (y1 - y0) / (x1 - x0 + 1)

    def spread(state: int, edges: list[int]) -> dict[int, float]:
        middle = (len(edges) - 1) / 2
        return {edge: points[state][1] + (k - middle) * PORT for k, edge in enumerate(edges)}

    leaves: dict[int, float] = {}
    enters: dict[int, float] = {}
    for state in range(cell.states):
        leaves |= spread(state, sorted((e for e, (s, _) in enumerate(cell.edges) if s == state), key=slope))
        enters |= spread(state, sorted((e for e, (_, t) in enumerate(cell.edges) if t == state), key=slope)[::-1])
    return tuple(
        Line(points[s][0] + BOX / 2, leaves[e], points[t][0] - BOX / 2, enters[e])
        for e, (s, t) in enumerate(cell.edges)
    )


def _busiest(cell: CellSpec) -> list[int]:
    """Per state, the number of edges on its fuller side."""
    arriving = [sum(t == state for _, t in cell.edges) for state in range(cell.states)]
    leaving = [sum(s == state for s, _ in cell.edges) for state in range(cell.states)]
    return [max(pair) for pair in zip(arriving, leaving, strict=True)]


def _graphviz_positions(cell: CellSpec) -> tuple[Point, ...] | None:
    """Graphviz's own placement for a topology we have none for; None where Graphviz is not installed."""
    from darts_core.errors import BadInput
    from darts_core.view import dot  # Graphviz is needed for unusual topologies alone

    try:
        return dot.placed(cell.states, cell.edges, [(BOX, max(34.0, PORT * n + 8)) for n in _busiest(cell)])
    except BadInput:
        return None


def _layered_positions(cell: CellSpec) -> tuple[Point, ...]:
    sizes = [(BOX, max(34.0, PORT * n + 8)) for n in _busiest(cell)]
    return layered(sizes, cell.edges, across=90.0, between=26.0).points


# ---------------------------------------------------------------- layered drawing, for derived cells and odd topologies


@dataclass(frozen=True)
class Layers:
    """`points`: the middle of each item. `routes`: per link, the points it passes between its two items."""

    points: tuple[Point, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


def layered(
    sizes: Sequence[tuple[float, float]],
    links: Sequence[Link],
    across: float = 30.0,
    between: float = 14.0,
    last: int | None = None,
    ranks: Sequence[int] | None = None,
) -> Layers:
    """Draw a directed acyclic graph in columns (Sugiyama et al. 1981): rank, order, then place; always the same result.

    Args:
        sizes: (width, height) per item.
        links: pairs of items; a link over several columns gets a lane of its own in each of them.
        across, between: free space from column to column, and between neighbours in a column.
        last: an item that is to stand alone in the last column.
        ranks: column of each item, links going from lower to higher ones; None: as far left as the links allow.
    """
    ranks = _ranks(len(sizes), links, last) if ranks is None else list(ranks)
    lanes, hops, passed = _lanes(ranks, links)
    sizes = [*sizes, *((0.0, 6.0) for _ in lanes)]
    ranks = [*ranks, *lanes]
    columns = _ordered([[i for i, r in enumerate(ranks) if r == rank] for rank in range(max(ranks) + 1)], hops)
    ys = _heights(columns, hops, [size[1] for size in sizes], between)
    xs, right = {}, 0.0
    for column in columns:
        wide = max(sizes[i][0] for i in column)
        xs |= dict.fromkeys(column, right + wide / 2)
        right += wide + across
    top = min(ys[i] - sizes[i][1] / 2 for i in ys)
    points = [(xs[i], ys[i] - top) for i in range(len(sizes))]
    routes = tuple(tuple(points[lane] for lane in lanes_of) for lanes_of in passed)
    height = max(y + size[1] / 2 for (_, y), size in zip(points, sizes, strict=True))
    return Layers(tuple(points[: len(points) - len(lanes)]), routes, right - across, height)


@dataclass(frozen=True)
class Derived:
    """A derived cell as it is drawn: middles of boxes, and the points that each line passes, its two ends included."""

    states: tuple[Point, ...]  # the cell's inputs, then its nodes
    output: Point
    labels: tuple[tuple[str, Point], ...]  # (operation, middle of its label), gene by gene
    lines: tuple[tuple[str, tuple[Point, ...]], ...]  # two per label; "": from a node to the output
    width: float
    height: float


def derived_layout(genes: CellGenes, box: float, label: float, across: float = 30.0, upright: bool = False) -> Derived:
    """States and labels of operations are all items of one layered drawing, so that no label ever lies on a line.

    Args:
        box, label: widths of the box of a state, and of the label of an operation.
        across: free space from column to column.
        upright: for narrow pages, data flows downwards: inputs beside one another, below them one by one the operations
            that enter node 0, then node 0, and so on to the output.
    """
    states = genes.inputs + len(genes.nodes)
    labels = [(gene.op, gene.source, genes.inputs + node) for node, kept in enumerate(genes.nodes) for gene in kept]
    output = states + len(labels)
    sizes = [(box, 38.0)] * states + [(label, 26.0)] * len(labels) + [(box, 38.0)]
    links = [link for n, (_, s, t) in enumerate(labels) for link in ((s, states + n), (states + n, t))]
    links += [(state, output) for state in genes.output]
    if upright:
        lying = [(height, width) for width, height in sizes]
        found = layered(lying, links, across * 0.6, between=6.0, ranks=_rows(genes))
        drawn = Layers(tuple(map(_turned, found.points)), tuple(tuple(map(_turned, r)) for r in found.routes),
                       found.height, found.width)  # fmt: skip
    else:
        drawn = layered(sizes, links, across, last=output)
    at = drawn.points
    lines = []
    for n, ((source, target), route) in enumerate(zip(links, drawn.routes, strict=True)):
        leaves, enters = (sizes[item][1 if upright else 0] / 2 for item in (source, target))
        (x0, y0), (x1, y1) = at[source], at[target]
        ends = ((x0, y0 + leaves), (x1, y1 - enters)) if upright else ((x0 + leaves, y0), (x1 - enters, y1))
        lines.append((labels[n // 2][0] if n < 2 * len(labels) else "", (ends[0], *route, ends[1])))
    named = tuple((op, at[states + n]) for n, (op, _, _) in enumerate(labels))
    return Derived(at[:states], at[output], named, tuple(lines), drawn.width, drawn.height)


def _turned(point: Point) -> Point:
    return point[1], point[0]


def _rows(genes: CellGenes) -> list[int]:
    """Row of each state, label and of the output, where data flows downwards: see `derived_layout`."""
    states, entering, row = [0] * genes.inputs, [], 0
    for kept in genes.nodes:
        entering += range(row + 1, row + 1 + len(kept))
        row += len(kept) + 1
        states.append(row)
    return [*states, *entering, row + 1]


def _ranks(items: int, links: Sequence[Link], last: int | None) -> list[int]:
    """Column of each item: the longest way from an item that nothing enters."""
    ranks = [0] * items
    for _ in range(items):  # at most `items` rounds, as there are no cycles
        for source, target in links:
            ranks[target] = max(ranks[target], ranks[source] + 1)
    if last is not None:
        ranks[last] = max(ranks[last], max(r for i, r in enumerate(ranks) if i != last) + 1)
    return ranks


def _lanes(ranks: Sequence[int], links: Sequence[Link]) -> tuple[list[int], list[Link], list[list[int]]]:
    """Extra points ("lanes") for links over several columns, numbered after the items.

    Returns: the column of each lane; all links cut into hops from one column to the next; the lanes of each link.
    """
    lanes: list[int] = []
    hops: list[Link] = []
    passed: list[list[int]] = []
    for source, target in links:
        columns = range(ranks[source] + 1, ranks[target])
        through = [len(ranks) + len(lanes) + k for k in range(len(columns))]
        lanes += columns
        stops = [source, *through, target]
        hops += zip(stops, stops[1:], strict=False)
        passed.append(through)
    return lanes, hops, passed


def _ordered(columns: list[list[int]], hops: Sequence[Link]) -> list[list[int]]:
    """The order within each column with the fewest crossings that twelve sweeps to and fro find (barycentre rule)."""
    best, fewest = [list(c) for c in columns], _crossings(columns, hops)
    for sweep in range(12):
        forward = sweep % 2 == 0
        for k in range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1):
            place = {item: float(i) for i, item in enumerate(columns[k - 1 if forward else k + 1])}
            wish = {item: _middle(item, place, hops, float(i)) for i, item in enumerate(columns[k])}
            columns[k].sort(key=wish.__getitem__)
        crossings = _crossings(columns, hops)
        if crossings < fewest:
            best, fewest = [list(c) for c in columns], crossings
    return best


def _middle(item: int, place: Mapping[int, float], hops: Sequence[Link], otherwise: float) -> float:
    """Mean place of the neighbours of an item that are in `place`."""
    near = [place[b if a == item else a] for a, b in hops if (a == item and b in place) or (b == item and a in place)]
    return sum(near) / len(near) if near else otherwise


def _crossings(columns: Sequence[Sequence[int]], hops: Sequence[Link]) -> int:
    place = {i: (c, k) for c, column in enumerate(columns) for k, i in enumerate(column)}
    found = 0
    for n, (a, b) in enumerate(hops):
        for c, d in hops[:n]:
            if place[a][0] == place[c][0] and (place[a][1] - place[c][1]) * (place[b][1] - place[d][1]) < 0:
                found += 1
    return found


def _heights(
    columns: Sequence[Sequence[int]], hops: Sequence[Link], tall: Sequence[float], between: float
) -> dict[int, float]:
    """Middles in y: each item as near to the mean of its neighbours as the order and the free space allow."""
    ys = {item: 60.0 * k for column in columns for k, item in enumerate(column)}
    for sweep in range(24):
        for column in columns if sweep % 2 else reversed(columns):
            gaps = [(tall[a] + tall[b]) / 2 + between for a, b in zip(column, column[1:], strict=False)]
            wish = [_middle(i, ys, hops, ys[i]) for i in column]
            ys |= dict(zip(column, _apart(wish, gaps), strict=True))
    return ys


def _apart(wish: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The values nearest to `wish` (least squares) whose neighbours are at least `gaps` apart: pooled violators."""
    offset = np.concatenate([[0.0], np.cumsum(gaps)]) if len(wish) > 1 else np.zeros(1)
    pools: list[tuple[float, int]] = []
    for value in np.asarray(wish) - offset:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n)]
    flat = [value for value, count in pools for _ in range(count)]
    return [float(v + o) for v, o in zip(flat, offset, strict=True)]
