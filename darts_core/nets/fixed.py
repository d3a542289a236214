"""The network of a genotype, trained from scratch: each node sums its chosen operations.

Differs from the supernet as the authors' code does: batch norm with learned scale and running statistics, pools without
batch norm, drop path on every chosen operation but identities. `search=True` builds the supernet's form instead, so
that a derived cell can carry on with the weights of its search.

Source: DARTS (Liu et al. 2019, section 3.2 and appendix A.2, A.3) and the authors' `NetworkCIFAR`, `NetworkImageNet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core import ops
from darts_core.errors import unknown
from darts_core.genotype import CellGenes, Gene, Genotype
from darts_core.nets import skeleton

STEMS = ("cifar", "imagenet")


class FixedCell(nn.Module):
    """A derived cell: per node the chosen operations on their source states, summed."""

    def __init__(self, genes: CellGenes, place: skeleton.Place, search: bool = False) -> None:
        super().__init__()
        self.genes, self.reduces = genes, place.reduces
        self.preprocess0, self.preprocess1 = skeleton.preprocess(place, search)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                ops.build(gene.op, place.channels, 2 if place.reduces and gene.source < genes.inputs else 1, search)
                for gene in node
            )
            for node in genes.nodes
        )

    def forward(self, s0: Tensor, s1: Tensor, drop_rate: float) -> Tensor:
        """Two states (N, C, H, W) -> (N, outputs * C, H', W')."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for genes, chosen in zip(self.genes.nodes, self.nodes, strict=True):
            states.append(self._node(states, genes, chosen, drop_rate))  # type: ignore[arg-type]
        return torch.cat([states[i] for i in self.genes.output], dim=1)

    def _node(self, states: list[Tensor], genes: Sequence[Gene], chosen: nn.ModuleList, drop_rate: float) -> Tensor:
        """The sum of a node's operations; zeros of a node's shape where it has none (FairDARTS).

        Drop path falls on each operation that is no identity, as in DARTS; a node with another number of operations
        than two comes from FairDARTS, whose code drops the whole sum.
        """
        if not genes:
            return ops.Zero(2 if self.reduces else 1)(states[0])
        outputs = [op(states[gene.source]) for gene, op in zip(genes, chosen, strict=True)]
        fixed = [isinstance(op, ops.Identity) for op in chosen]
        if not self.training or drop_rate <= 0:
            return reduce(torch.add, outputs)
        if len(outputs) == 2:
            outputs = [y if same else ops.drop_path(y, drop_rate) for y, same in zip(outputs, fixed, strict=True)]
            return outputs[0] + outputs[1]
        total = reduce(torch.add, outputs)
        return total if all(fixed) else ops.drop_path(total, drop_rate)


class Auxiliary(nn.Module):
    """A second classifier in the middle of the stack, for training alone: (N, C, H, W) -> logits (N, classes).

    The released code pools 5x5 windows so that 2x2 positions are left (stride 3 at the 8x8 of CIFAR-10, stride 2 at the
    7x7 of ImageNet); at other sizes the pool here adapts to 2x2. The ImageNet head has no second batch norm: its
    authors left it out by an oversight and kept it so for their results.
    """

    def __init__(self, channels: int, classes: int, stem: str) -> None:
        super().__init__()
        norm = [nn.BatchNorm2d(768)] if stem == "cifar" else []
        self.features = nn.Sequential(
            nn.ReLU(), TwoByTwo(3 if stem == "cifar" else 2), nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 768, 2, bias=False), *norm, nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class TwoByTwo(nn.Module):
    """Average pool of 5x5 windows where that leaves 2x2 positions, else the average over four quarters."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        fits = all(side >= 5 and (side - 5) // self.stride == 1 for side in x.shape[2:])
        return F.avg_pool2d(x, 5, self.stride, count_include_pad=False) if fits else F.adaptive_avg_pool2d(x, 2)


class Network(nn.Module):
    """Stem, derived cells, global average, linear classifier: images (N, C, H, W) -> logits (N, classes).

    `net(x, drop_rate)`: the drop-path rate of this moment is an argument (the authors ramp it from 0 to 0.2).

    Args:
        stem: "cifar" keeps the image's size (`stem_stride` 1); "imagenet" quarters it, and halves it once more between
            the two inputs of the first cell.
        auxiliary: a second classifier behind the last reduction cell; only `both` computes it.
        search: the supernet's form (batch statistics, no learned scale).
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
        stem: str = "cifar",
        auxiliary: bool = False,
        search: bool = False,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise unknown("network", "stem", stem, STEMS)
        self.genotype, self.stem_kind = genotype, stem
        width = stem_multiplier * channels if stem == "cifar" else channels
        if stem == "cifar":
            self.stem = skeleton.stem(image_channels, width, stem_stride, search)
        else:
            self.stem0, self.stem1 = skeleton.imagenet_stem(image_channels, width)
        outputs = {kind: len(genes.output) for kind, genes in genotype.cells.items()}
        stack = skeleton.places(channels, cells, reductions, width, outputs, shrunk=stem == "imagenet")
        self.places = stack
        self.cells = nn.ModuleList(FixedCell(genotype.cells[place.kind], place, search) for place in stack)
        after = [place.channels * outputs[place.kind] for place in stack]
        self.auxiliary_after = max(reductions, default=2 * cells // 3)  # index of the cell whose output the head reads
        self.auxiliary_head = Auxiliary(after[self.auxiliary_after], classes, stem) if auxiliary else None
        self.classifier = nn.Linear(after[-1], classes)

    def forward(self, x: Tensor, drop_rate: float = 0.0) -> Tensor:
        return self._run(x, drop_rate, False)[0]

    def both(self, x: Tensor, drop_rate: float = 0.0) -> tuple[Tensor, Tensor | None]:
        """(logits, logits of the auxiliary head); the latter is None in evaluation mode and where there is no head."""
        return self._run(x, drop_rate, self.training and self.auxiliary_head is not None)

    def _run(self, x: Tensor, drop_rate: float, auxiliary: bool) -> tuple[Tensor, Tensor | None]:
        extra = None
        if self.stem_kind == "cifar":
            s0 = s1 = self.stem(x)
        else:
            s0 = self.stem0(x)
            s1 = self.stem1(s0)
        for index, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, drop_rate)
            if auxiliary and index == self.auxiliary_after:
                assert self.auxiliary_head is not None
                extra = self.auxiliary_head(s1)
        return self.classifier(s1.mean((2, 3))), extra


def parameters(module: nn.Module) -> int:
    """How many numbers are learned, an auxiliary head left out, as papers count them."""
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith("auxiliary_head."))
