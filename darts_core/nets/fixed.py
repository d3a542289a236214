"""The network of a genotype, trained from scratch: each node sums its chosen operations.

Differs from the supernet as the authors' code does: batch norm with learned scale and running statistics, pools without
batch norm, drop path on every chosen operation but identities.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from darts_core import ops
from darts_core.genotype import CellGenes, Genotype
from darts_core.nets import skeleton


class FixedCell(nn.Module):
    """A derived cell: per node the chosen operations on their source states, summed."""

    def __init__(self, genes: CellGenes, place: skeleton.Place) -> None:
        super().__init__()
        self.genes, self.reduces = genes, place.reduces
        self.preprocess0, self.preprocess1 = skeleton.preprocess(place, search=False)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                ops.build(
                    gene.op, place.channels, 2 if place.reduces and gene.source < genes.inputs else 1, search=False
                )
                for gene in node
            )
            for node in genes.nodes
        )

    def forward(self, s0: Tensor, s1: Tensor, drop_rate: float) -> Tensor:
        """Two states (N, C, H, W) -> (N, outputs * C, H', W')."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        shape = ops.Zero(2 if self.reduces else 1)  # a node without genes is zeros of a node's shape
        for genes, chosen in zip(self.genes.nodes, self.nodes, strict=True):
            total = None
            for gene, op in zip(genes, chosen, strict=True):  # type: ignore[arg-type]
                y = op(states[gene.source])
                if self.training and drop_rate > 0 and not isinstance(op, ops.Identity):
                    y = ops.drop_path(y, drop_rate)
                total = y if total is None else total + y
            states.append(shape(states[0]) if total is None else total)
        return torch.cat([states[i] for i in self.genes.output], dim=1)


class Network(nn.Module):
    """Stem, derived cells, global average, linear classifier: images (N, C, H, W) -> logits (N, classes).

    `net(x, drop_rate)`: the drop-path rate of this moment is an argument (the authors ramp it from 0 to 0.2).
    """

    def __init__(
        self,
        genotype: Genotype,
        image_channels: int,
        classes: int,
        channels: int = 36,
        cells: int = 20,
        reductions: tuple[int, ...] = (6, 13),
        stem_multiplier: int = 3,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        width = stem_multiplier * channels
        self.stem = skeleton.stem(image_channels, width, stem_stride, search=False)
        outputs = {kind: len(genes.output) for kind, genes in genotype.cells.items()}
        stack = skeleton.places(channels, cells, reductions, width, outputs)
        self.cells = nn.ModuleList(FixedCell(genotype.cells[place.kind], place) for place in stack)
        self.classifier = nn.Linear(stack[-1].channels * outputs[stack[-1].kind], classes)

    def forward(self, x: Tensor, drop_rate: float = 0.0) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, drop_rate)
        return self.classifier(s1.mean((2, 3)))


def parameters(module: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(p.numel() for p in module.parameters())
