"""What operations cost: learned parameters, and multiply-adds for one image, counted without building a network.

The rule, said wherever a number is shown: multiply-adds are those of convolutions and linear layers; batch norm,
pooling and additions are left out. Parameters are all that is learned. In the derived network every batch norm has a
learned scale and shift, in the supernet only the stem's (paper, section 3.1.1). `tests/test_cost.py` counts the real
modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from darts_core.config import SearchConfig
from darts_core.derive import Mixes, derive, one_hot
from darts_core.space import SearchSpace
from darts_core.stack import places

RULE = (
    "Multiply-adds for one image in convolutions and linear layers; batch norm, pooling and additions are not counted."
)


class Image(NamedTuple):
    """The images of a data set; `train` and `test` count them, 0 where it is not known."""

    channels: int
    height: int
    width: int
    classes: int
    train: int = 0
    test: int = 0


KNOWN: Mapping[str, Image] = {
    "digits": Image(1, 8, 8, 10, 1200, 597),
    "fashion_mnist": Image(1, 28, 28, 10, 60_000, 10_000),
    "cifar10": Image(3, 32, 32, 10, 50_000, 10_000),
    "cifar100": Image(3, 32, 32, 100, 50_000, 10_000),
}
SAID = re.compile(r"(\d{1,9}) training and (\d{1,9}) test images of (\d{1,4})x(\d{1,5})x(\d{1,5}), (\d{1,6}) classes")


class Count(NamedTuple):
    """Learned parameters, and multiply-adds for one image."""

    params: float = 0
    macs: float = 0

    def plus(self, *others: Count) -> Count:
        return Count(self.params + sum(o.params for o in others), self.macs + sum(o.macs for o in others))


@dataclass(frozen=True)
class Costs:
    """A network in parts: what is there in any case, and each operation on each edge, over all cells of a kind.

    `edges`: the rows of a mix have weights of their edges multiplied in (PC-DARTS), which say nothing of what an edge
    costs: every row counts as one then.
    """

    fixed: Count
    params: Mapping[str, np.ndarray]  # kind -> (edges, ops), 0 where not legal
    macs: Mapping[str, np.ndarray]
    edges: bool = False

    def of(self, mixes: Mixes) -> Count:
        """The fixed part, and of each operation as much as it weighs; a row that sums to more than one counts as one.

        Under a one-hot mix this is the count of that cell's network; otherwise the expected count of a cell whose
        operations are drawn by their weights.
        """
        least = 1e-12 if self.edges else 1.0
        found = self.fixed
        for kind in self.params:
            mix = np.asarray(mixes[kind], dtype=float)
            share = mix / np.maximum(least, mix.sum(-1, keepdims=True))
            count = Count(float((share * self.params[kind]).sum()), float((share * self.macs[kind]).sum()))
            found = found.plus(count)
        return found

    def whole(self) -> Count:
        """All operations of all edges: the supernet."""
        parts = (Count(float(self.params[kind].sum()), float(self.macs[kind].sum())) for kind in self.params)
        return self.fixed.plus(*parts)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, tables row by row."""
        flat = lambda tables: {kind: table.reshape(-1).tolist() for kind, table in tables.items()}  # noqa: E731
        tables = {"params": flat(self.params), "macs": flat(self.macs)}
        return {"fixed": list(self.fixed), **tables, "edges": self.edges}


def image_of(config: Mapping[str, Any], events: Iterable[Mapping[str, Any]] = ()) -> Image | None:
    """The images of a search: as its data set is known to be, or as the run said when it had read them."""
    name, side = str(config.get("dataset", "")), int(config.get("resize") or 0)
    subset = int(config.get("subset") or 0)
    if name in KNOWN:
        known = KNOWN[name]
        sized = known._replace(height=side, width=side) if side else known
        return sized._replace(train=min(subset, sized.train)) if subset else sized
    for event in events:
        if event["type"] == "phase" and event["name"] == "data" and (found := SAID.search(event["message"])):
            train, test, channels, height, width, classes = (int(number) for number in found.groups())
            return Image(channels, height, width, classes, train, test)
    return None


def costs_of(space: SearchSpace, config: SearchConfig, image: Image, search: bool, stage: int = 0) -> Costs | None:
    """The parts of the supernet (`search`) or of a derived network with these settings. Operations of a supernet may
    see a share of the channels only (PC-DARTS), another one in each stage (DrNAS), and a stage may have more cells
    (P-DARTS).

    Returns: None for a space whose cells are not counted here (one input, other operations).
    """
    if not all(cell.inputs == 2 and set(cell.ops) <= COUNTED for cell in space.cells.values()):
        return None
    partial = config.partial_channels(stage) if search else 1
    staged = config.with_(cells=config.supernet_cells(stage)) if search else config
    outputs = {kind: len(cell.output) for kind, cell in space.cells.items()}
    width = config.stem_multiplier * config.channels
    size = (_strided(image.height, config.stem_stride), _strided(image.width, config.stem_stride))
    stem = _conv(image.channels, width, 9, size).plus(Count(2 * width))
    params = {kind: np.zeros(cell.shape) for kind, cell in space.cells.items()}
    macs = {kind: np.zeros(cell.shape) for kind, cell in space.cells.items()}
    fixed, last = stem, width
    for place in places(config.channels, staged.cells, staged.reduction_cells(), width, outputs):
        cell, c = space.cells[place.kind], place.channels
        norm = Count() if search else Count(2 * c)
        fixed = fixed.plus(_conv(place.before_previous, c, 1, size), norm, _conv(place.previous, c, 1, size), norm)
        half = (_strided(size[0], 2), _strided(size[1], 2)) if place.reduces else size
        for e, (source, _) in enumerate(cell.edges):
            shrinks = place.reduces and source < cell.inputs
            for o, op in enumerate(cell.ops):
                if cell.legal[e][o]:
                    count = operation(op, c // partial, size if shrinks else half, shrinks, search)
                    params[place.kind][e, o] += count.params
                    macs[place.kind][e, o] += count.macs
        size, last = half, c * outputs[place.kind]
    linear = Count((last + 1) * image.classes, last * image.classes)
    return Costs(fixed.plus(linear), params, macs, search and config.edge_alphas())


def operation(op: str, c: int, size: tuple[int, int], shrinks: bool, search: bool) -> Count:
    """One operation with `c` channels in and out on (height, width); `shrinks`: at stride 2. KeyError: unknown."""
    height, width = size
    out = (_strided(height, 2), _strided(width, 2)) if shrinks else size
    norm = Count() if search else Count(2 * c)
    if op in ("none", "noise", "max_pool_3x3", "avg_pool_3x3", "sharp_avg_pool_3x3"):
        return Count()
    if op == "skip_connect":
        return _conv(c, c, 1, out).plus(norm) if shrinks else Count()
    if op == "conv_7x1_1x7":
        return _conv(c, c, 7, (height, out[1])).plus(_conv(c, c, 7, out), norm)
    if op in SHARP:
        kernel, middle = SHARP[op][0], SHARP[op][1](c)
        inner = Count() if search else Count(2 * middle)
        depthwise = _depthwise(c, kernel, out).plus(_depthwise(middle, kernel, out))
        return depthwise.plus(_conv(c, middle, 1, out), inner, _conv(middle, c, 1, out), norm)
    family, kernel = FAMILIES[op]
    if family == "nor":
        return _conv(c, c, kernel**2, out).plus(norm)
    once = _depthwise(c, kernel, out).plus(_conv(c, c, 1, out), norm)
    return once.plus(once) if family == "sep" else once


FAMILIES = {
    "sep_conv_3x3": ("sep", 3), "sep_conv_5x5": ("sep", 5), "sep_conv_7x7": ("sep", 7), "dil_conv_3x3": ("dil", 3),
    "dil_conv_5x5": ("dil", 5), "nor_conv_1x1": ("nor", 1), "nor_conv_3x3": ("nor", 3),
}  # fmt: skip
SHARP: Mapping[str, tuple[int, Callable[[int], int]]] = {  # kernel, and channels in the middle of c (sharpDARTS)
    "sharp_dil_conv_3x3": (3, lambda c: c),
    "sharp_dil_conv_5x5": (5, lambda c: c),
    "flood_conv_3x3": (3, lambda c: 4 * c),
    "flood_conv_5x5": (5, lambda c: 4 * c),
    "dil_flood_conv_3x3": (3, lambda c: 4 * c),
    "choke_conv_3x3": (3, lambda c: 32),
    "dil_choke_conv_3x3": (3, lambda c: 32),
}
COUNTED = {
    "none", "noise", "max_pool_3x3", "avg_pool_3x3", "sharp_avg_pool_3x3", "skip_connect", "conv_7x1_1x7",
    *FAMILIES, *SHARP,
}  # fmt: skip


def derived(costs: Costs, space: SearchSpace, mixes: Mixes) -> Count:
    """The network of the cell that the paper's rule derives from `mixes`; `costs` of the derived form."""
    genotype = derive(space, mixes)
    return costs.of({kind: one_hot(cell, genotype.cells[kind]) for kind, cell in space.cells.items()})


def _depthwise(c: int, kernel: int, out: tuple[int, int]) -> Count:
    """A convolution of one filter per channel."""
    return Count(c * kernel**2, c * kernel**2 * out[0] * out[1])


def _conv(c_in: int, c_out: int, window: int, out: tuple[int, int]) -> Count:
    """A convolution without bias, `window` positions per filter, `out` the size of its output."""
    return Count(c_in * c_out * window, c_in * c_out * window * out[0] * out[1])


def _strided(side: int, stride: int) -> int:
    """The side after a stride, with a padding that keeps it at stride 1."""
    return (side - 1) // stride + 1
