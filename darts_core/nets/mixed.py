"""The reference supernet: equation 2 as written, one module per operation. Slow and clear.

    o_bar(i,j)(x) = sum over operations o of mix[(i,j), o] * o(x)                     DARTS, equation 2
    x(j) = sum over earlier states i of o_bar(i,j)(x(i))                              DARTS, equation 1

The architecture is an argument: `net(x, mix)`. Nothing about it is kept after the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from darts_core import ops
from darts_core.mix import Mix
from darts_core.nets import skeleton
from darts_core.space import CellSpec, SearchSpace


class MixedOperation(nn.Module):
    """All candidate operations of one edge, weighted by one row of the mix (equation 2)."""

    def __init__(self, cell: CellSpec, edge: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.columns = [o for o, legal in enumerate(cell.legal[edge]) if legal and cell.ops[o] != "none"]
        self.names = [cell.ops[o] for o in self.columns]
        self.candidates = nn.ModuleDict({op: ops.build(op, channels, stride, search=True) for op in self.names})

    def forward(self, x: Tensor, weights: Tensor, drop: Mapping[str, Tensor]) -> Tensor:
        """x (N, C, H, W), weights (ops,) -> (N, C, H', W').

        `none` contributes exactly zero, so its term is left out; its weight still takes mass from the others.
        """
        total = None
        for column, (name, op) in zip(self.columns, self.candidates.items(), strict=True):
            y = op(x)
            if name in drop:
                y = ops.drop_path(y, drop[name])
            term = weights[column] * y
            total = term if total is None else total + term
        return ops.Zero(self.stride)(x) if total is None else total


class MixedCell(nn.Module):
    """A cell with a mixed operation on every edge (equation 1)."""

    def __init__(self, cell: CellSpec, place: skeleton.Place) -> None:
        super().__init__()
        self.cell, self.kind = cell, place.kind
        self.preprocess0, self.preprocess1 = skeleton.preprocess(place, search=True)
        self.edges = nn.ModuleList(
            MixedOperation(cell, e, place.channels, 2 if place.reduces and source < cell.inputs else 1)
            for e, (source, _) in enumerate(cell.edges)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, drop: Mapping[str, Tensor]) -> Tensor:
        """Two states (N, C, H, W) and weights (edges, ops) -> the concatenated nodes (N, outputs * C, H', W')."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in range(self.cell.nodes):
            into = self.cell.edges_into(node)
            terms = [self.edges[e](states[self.cell.edges[e][0]], weights[e], drop) for e in into]
            states.append(sum(terms[1:], terms[0]))
        return torch.cat([states[i] for i in self.cell.output], dim=1)


class Supernet(nn.Module):
    """Stem, stacked mixed cells, global average, linear classifier: `net(x, mix) -> (logits, None)`.

    Args:
        space: kinds of cell; "reduce" may be missing when `reductions` is empty.
        image: (channels, classes) of the data.
        channels, cells, reductions, stem_multiplier, stem_stride: as in `SearchConfig`.
    """

    def __init__(
        self,
        space: SearchSpace,
        image_channels: int,
        classes: int,
        channels: int = 16,
        cells: int = 8,
        reductions: tuple[int, ...] = (2, 5),
        stem_multiplier: int = 3,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        width = stem_multiplier * channels
        self.stem = skeleton.stem(image_channels, width, stem_stride, search=True)
        outputs = {kind: len(cell.output) for kind, cell in space.cells.items()}
        stack = skeleton.places(channels, cells, reductions, width, outputs)
        self.cells = nn.ModuleList(MixedCell(space.cells[place.kind], place) for place in stack)
        self.classifier = nn.Linear(stack[-1].channels * outputs[stack[-1].kind], classes)

    def forward(self, x: Tensor, mix: Mix, carry: Any = None) -> tuple[Tensor, Any]:
        """Images (N, C, H, W) and a mix of (edges, ops) per kind -> logits (N, classes) and the carry, untouched."""
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, mix.ops[cell.kind], mix.drop)  # type: ignore[index]
        return self.classifier(s1.mean((2, 3))), carry

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names that files hold -> under this net's names: here they are the same."""
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `pack`."""
        return dict(tensors)
