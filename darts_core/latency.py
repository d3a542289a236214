"""What each operation costs where it stands in the network: multiply-adds, or seconds measured on this machine.

ProxylessNAS (Cai, Zhu, Han 2019) adds the expected latency of the sampled network to the loss, from a
table of measured blocks. `python -m darts_core latency` measures here: every operation as a derived network holds it,
one image at a time, in evaluation mode; the median of many runs. The table lies in the cache folder and says where and
how it was made; another machine makes its own.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from darts_core import io, ops
from darts_core.config import SearchConfig
from darts_core.cost import COUNTED, image_of, operation
from darts_core.errors import BadInput
from darts_core.nets.chain import InvertedResidual
from darts_core.space import SearchSpace
from darts_core.stack import chain_places, places

REPEATS, BATCH = 30, 1
LIMIT = 1 << 20  # bytes of the table


class Item(NamedTuple):
    """An operation at a place: on edge `edge` of the cells called `kind`, column `column`."""

    kind: str
    edge: int
    column: int
    op: str
    c_in: int
    c_out: int
    stride: int
    side: int  # of the image that it sees

    @property
    def key(self) -> str:
        """What its cost depends on."""
        return f"{self.op} {self.c_in}-{self.c_out} stride {self.stride} side {self.side}"


def items(space: SearchSpace, config: SearchConfig) -> list[Item]:
    """Every operation that an edge may hold, at every place of the network; one entry per cell of a kind.

    Raises:
        BadInput: the size of the images is not known beforehand.
    """
    image = image_of(config.to_dict())
    if image is None:
        raise BadInput("latency", "dataset", f"the images of {config.dataset} are not known beforehand", "set resize")
    side = -(-image.height // config.stem_stride)
    found: list[Item] = []

    def add(kind: str, edge: int, c_in: int, c_out: int, stride: int, side: int) -> None:
        cell = space.cells[kind]
        found.extend(
            Item(kind, edge, o, op, c_in, c_out, stride, side) for o, op in enumerate(cell.ops) if cell.legal[edge][o]
        )

    reductions = config.reduction_cells()
    if "chain" in space.cells:
        for e, (c_in, c_out, stride) in enumerate(chain_places(config.channels, config.cells, reductions)):
            add("chain", e, c_in, c_out, stride, side)
            side = -(-side // stride)
        return found
    one_input = any(cell.inputs == 1 for cell in space.cells.values())
    widths = dict.fromkeys(space.cells, 1)
    stack = [] if one_input else places(config.channels, config.cells, reductions, config.channels, widths)
    for place in stack:
        cell = space.cells[place.kind]
        for e, (source, _) in enumerate(cell.edges):
            strided = place.reduces and source < cell.inputs
            after = -(-side // 2) if place.reduces else side
            add(place.kind, e, place.channels, place.channels, 2 if strided else 1, side if strided else after)
        side = -(-side // 2) if place.reduces else side
    c = config.channels
    for index in range(config.cells if one_input else 0):
        if index in reductions:  # a fixed block halves the image in front of the cell
            c, side = 2 * c, -(-side // 2)
        for e in range(len(space.cells["normal"].edges)):
            add("normal", e, c, c, 1, side)
    return found


def multiply_adds(item: Item) -> float:
    """Of convolutions, for one image; batch norm, pooling and additions are not counted."""
    out = -(-item.side // item.stride)
    if item.op.startswith("mbconv"):
        kernel, wide = int(item.op[7]), int(item.op[-1]) * item.c_in
        return item.side**2 * item.c_in * wide + out**2 * (kernel**2 * wide + wide * item.c_out)
    if item.op not in COUNTED:
        raise BadInput("latency", "operation", f"multiply-adds of {item.op} are not counted", "use latency instead")
    return operation(item.op, item.c_in, (item.side, item.side), item.stride == 2, False).macs


def module(item: Item) -> nn.Module:
    """The operation as a derived network holds it."""
    if item.op.startswith("mbconv"):
        return InvertedResidual(item.c_in, item.c_out, int(item.op[7]), int(item.op[-1]), item.stride, False)
    return ops.build(item.op, item.c_in, item.stride, search=False)


@torch.no_grad()
def measured(item: Item, repeats: int = REPEATS) -> float:
    """Median seconds of one forward pass of one image, after a few that warm up."""
    net, x = module(item).eval(), torch.zeros(BATCH, item.c_in, item.side, item.side)
    times = []
    for n in range(repeats + 5):
        began = time.perf_counter()
        net(x)
        if n >= 5:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def table_path() -> Path:
    """Where this machine's table lies: $DARTS_LATENCY, else the cache folder."""
    given = os.environ.get("DARTS_LATENCY")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "darts-workbench" / "latency.json"


def table() -> dict[str, Any]:
    """{"about": machine, torch, threads ...; "seconds": key -> seconds}; empty entries where nothing was measured.

    Raises:
        BadInput: the file is damaged.
    """
    path = table_path()
    if not path.is_file():
        return {"about": {}, "seconds": {}}
    found = io.loads(io.read_bytes(path, LIMIT), path)
    sound = isinstance(found, dict) and set(found) == {"about", "seconds"} and isinstance(found["seconds"], dict)
    if not sound or not all(isinstance(s, float) and 0 < s < 3600 for s in found["seconds"].values()):
        raise BadInput(path, "", "is not a table of seconds", "delete it and measure again: latency")
    return found


def measure_all(config: SearchConfig, say: Callable[[int, int], None] = lambda n, of: None) -> dict[str, Any]:
    """Measure every operation of a search and keep the table; what was measured before is measured again."""
    wanted = {item.key: item for item in items(config.search_space(), config)}
    found = table()
    for number, (key, item) in enumerate(wanted.items()):
        found["seconds"][key] = measured(item)
        say(number + 1, len(wanted))
    found["about"] = {
        "machine": platform.machine(), "processor": platform.processor(), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "batch": BATCH, "repeats": REPEATS, "statistic": "median",
        "made": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    path = table_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    io.atomic_write(path, io.dumps(found).encode())
    return found


def costs(space: SearchSpace, config: SearchConfig, measure: str) -> Mapping[str, np.ndarray]:
    """kind -> (edges, ops): multiply-adds ("macs") or seconds ("latency") over all cells of a kind, 0 where not legal.

    Raises:
        BadInput: latency was not measured here for this network.
    """
    found = {kind: np.zeros(cell.shape, np.float32) for kind, cell in space.cells.items()}
    seconds = table()["seconds"] if measure == "latency" else {}
    for item in items(space, config):
        if measure == "latency" and item.key not in seconds:
            fix = "measure it: python -m darts_core latency, with the settings of the search"
            raise BadInput("latency", item.op, f"was not measured on this machine ({item.key})", fix)
        found[item.kind][item.edge, item.column] += seconds[item.key] if seconds else multiply_adds(item)
    return found
