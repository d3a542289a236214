"""Networks whose cells have one input: the form of NAS-Bench-201 (Dong and Yang 2020).

A stem, then cells of equal form at full width; a node is the sum of its edges, the last node is the cell's output.
Images are halved by fixed residual blocks between the cells, never inside one. The benchmark's own networks have 15
cells in three stages of 16, 32 and 64 channels.

`cells` counts searched cells; a residual block stands in front of each cell whose number is in `reductions`. Pools have
a batch norm behind them in the supernet, as everywhere here (the benchmark's have none).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from darts_core import ops
from darts_core.genotype import CellGenes, Genotype
from darts_core.mix import Mix
from darts_core.nets import skeleton
from darts_core.nets.mixed import MixedOperation, checked_share, summed, with_extra_skip
from darts_core.space import CellSpec, SearchSpace

KIND = "normal"


def widths(channels: int, cells: int, reductions: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Per cell, channels before it and in it; they differ where a residual block halves the image first."""
    before = channels
    for index in range(cells):
        inside = before * 2 if index in reductions else before
        yield before, inside
        before = inside


class MixedBenchCell(nn.Module):
    """A cell of one input with a mixed operation on every edge."""

    def __init__(self, cell: CellSpec, channels: int, partial: int = 1) -> None:
        super().__init__()
        self.cell = cell
        self.edges = nn.ModuleList(MixedOperation(cell, e, channels, 1, partial) for e in range(len(cell.edges)))

    def forward(self, x: Tensor, rows: Tensor, edges: Tensor | None, mix: Mix) -> Tensor:
        """(N, C, H, W), weights (edges, columns) and edge weights (edges,) -> the shape of x."""
        states = [x]
        for node in range(self.cell.nodes):
            into = self.cell.edges_into(node)
            states.append(summed(self.edges, self.cell, into, states, rows, edges, mix, KIND))
        return states[self.cell.output[-1]]


class BenchSupernet(nn.Module):
    """`net(x, mix) -> (logits, None)`, like `mixed.Supernet`. `stem_multiplier` has no meaning here; the last two
    arguments are those of `mixed.Supernet`.
    """

    def __init__(
        self,
        space: SearchSpace,
        image_channels: int,
        classes: int,
        channels: int = 16,
        cells: int = 15,
        reductions: tuple[int, ...] = (5, 10),
        stem_multiplier: int = 1,
        stem_stride: int = 1,
        partial_channels: int = 1,
        extra_skip: bool = False,
    ) -> None:
        super().__init__()
        self.partial, self.extra = checked_share(channels, partial_channels), extra_skip
        cell = with_extra_skip(space.cells[KIND]) if extra_skip else space.cells[KIND]
        self.stem = skeleton.stem(image_channels, channels, stem_stride, search=True)
        pairs = list(widths(channels, cells, reductions))
        self.cells = nn.ModuleList(MixedBenchCell(cell, inside, partial_channels) for _, inside in pairs)
        self.blocks = _blocks(pairs, search=True)
        self.last = nn.Sequential(ops.norm(pairs[-1][1], True, affine=True), nn.ReLU())
        self.classifier = nn.Linear(pairs[-1][1], classes)

    def forward(self, x: Tensor, mix: Mix, carry: Any = None) -> tuple[Tensor, Any]:
        """Images (N, C, H, W) and a mix of (edges, ops) -> logits (N, classes) and the carry, untouched."""
        x = self.stem(x)
        for index, cell in enumerate(self.cells):
            x = self.blocks[str(index)](x) if str(index) in self.blocks else x
            x = cell(x, mix.rows(KIND, self.extra), mix.edges.get(KIND), mix)
        return self.classifier(self.last(x).mean((2, 3))), carry

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names that files hold -> under this net's names: here they are the same."""
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `pack`."""
        return dict(tensors)


class BenchCell(nn.Module):
    """A derived cell of one input: each node the sum of its chosen operations."""

    def __init__(self, genes: CellGenes, channels: int, search: bool = False) -> None:
        super().__init__()
        self.genes = genes
        self.nodes = nn.ModuleList(
            nn.ModuleList(ops.build(gene.op, channels, 1, search) for gene in node) for node in genes.nodes
        )

    def forward(self, x: Tensor, drop_rate: float) -> Tensor:
        """(N, C, H, W) -> the same shape; a node without genes is zeros."""
        states = [x]
        for genes, chosen in zip(self.genes.nodes, self.nodes, strict=True):
            total = None
            for gene, op in zip(genes, chosen, strict=True):  # type: ignore[arg-type]
                y = op(states[gene.source])
                if self.training and drop_rate > 0 and not isinstance(op, ops.Identity):
                    y = ops.drop_path(y, drop_rate)
                total = y if total is None else total + y
            states.append(x * 0 if total is None else total)
        return states[self.genes.output[-1]]


class BenchNetwork(nn.Module):
    """The network of a derived cell, trained from scratch: images (N, C, H, W) -> logits (N, classes).

    `search=True` builds the supernet's form instead (batch statistics, no learned scale), for its weights.
    """

    def __init__(
        self,
        genotype: Genotype,
        image_channels: int,
        classes: int,
        channels: int = 16,
        cells: int = 15,
        reductions: tuple[int, ...] = (5, 10),
        stem_multiplier: int = 1,
        stem_stride: int = 1,
        search: bool = False,
    ) -> None:
        super().__init__()
        self.genotype = genotype
        self.stem = skeleton.stem(image_channels, channels, stem_stride, search)
        pairs = list(widths(channels, cells, reductions))
        self.cells = nn.ModuleList(BenchCell(genotype.cells[KIND], inside, search) for _, inside in pairs)
        self.blocks = _blocks(pairs, search)
        self.last = nn.Sequential(ops.norm(pairs[-1][1], search, affine=True), nn.ReLU())
        self.classifier = nn.Linear(pairs[-1][1], classes)

    def forward(self, x: Tensor, drop_rate: float = 0.0) -> Tensor:
        x = self.stem(x)
        for index, cell in enumerate(self.cells):
            x = self.blocks[str(index)](x) if str(index) in self.blocks else x
            x = cell(x, drop_rate)
        return self.classifier(self.last(x).mean((2, 3)))


def _blocks(pairs: list[tuple[int, int]], search: bool) -> nn.ModuleDict:
    """Number of a cell -> the residual block in front of it, where its channels change."""
    return nn.ModuleDict({str(i): ops.ResidualReduction(a, b, search) for i, (a, b) in enumerate(pairs) if a != b})
