"""The reference supernet: equation 2 as written, one module per operation. Slow and clear.

    o_bar(i,j)(x) = sum over operations o of mix[(i,j), o] * o(x)                     DARTS, equation 2
    x(j) = sum over earlier states i of o_bar(i,j)(x(i))                              DARTS, equation 1

The architecture is an argument: `net(x, mix)`. Nothing about it is kept after the call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core import ops
from darts_core.errors import BadInput
from darts_core.mix import EDGE, Mix, Paths
from darts_core.nets import skeleton
from darts_core.space import CellSpec, SearchSpace


class MixedOperation(nn.Module):
    """All candidate operations of one edge, weighted by one row of the mix (equation 2).

    With `partial` = k they see the first C/k channels only; the others pass by, max-pooled where the image shrinks, and
    the channels are shuffled so that the next cell's share is another one (PC-DARTS, Xu et al. 2020).
    """

    def __init__(self, cell: CellSpec, edge: int, channels: int, stride: int, partial: int = 1) -> None:
        super().__init__()
        self.stride, self.partial, self.seen = stride, partial, channels // partial
        self.columns = [o for o, legal in enumerate(cell.legal[edge]) if legal and cell.ops[o] != "none"]
        self.names = [cell.ops[o] for o in self.columns]
        self.candidates = nn.ModuleDict({op: ops.build(op, self.seen, stride, search=True) for op in self.names})

    def forward(
        self, x: Tensor, weights: Tensor, moment: Mix | None = None, active: Collection[int] | None = None
    ) -> Tensor:
        """x (N, C, H, W), weights (columns,) -> (N, C, H', W'); `moment` says what is dropped, `active` what is run.

        `none` contributes exactly zero, so its term is left out; its weight still takes mass from the others.
        """
        drop, dropout = (moment.drop, moment.dropout) if moment else ({}, {})
        head, total = x[:, : self.seen], None
        for column, (name, op) in zip(self.columns, self.candidates.items(), strict=True):
            if active is not None and column not in active:
                continue
            y = op(head)
            if name in drop:
                y = ops.drop_path(y, drop[name])
            if name in dropout and self.stride == 1:
                y = F.dropout(y, dropout[name])
            term = weights[column] * y.to(weights.dtype)  # under autocast y is bfloat16, the sum is not
            total = term if total is None else total + term
        total = ops.Zero(self.stride)(head) if total is None else total
        if self.partial > 1:
            total = shuffled(torch.cat([total, passed_by(x[:, self.seen :], self.stride)], dim=1), self.partial)
        return ops.drop_path(total, drop[EDGE]) if EDGE in drop else total


def passed_by(rest: Tensor, stride: int) -> Tensor:
    """The channels that no operation sees, at the size of an edge's output (PC-DARTS: 2x2 max pooling where it shrinks;
    at odd sizes the last row and column are a window of their own, where the original cannot be joined).
    """
    return F.max_pool2d(rest, 2, 2, ceil_mode=True) if stride == 2 else rest


def shuffled(x: Tensor, groups: int) -> Tensor:
    """(N, C, H, W): channel g * C/groups + c moves to c * groups + g (PC-DARTS' channel shuffle)."""
    N, C, H, W = x.shape
    return x.view(N, groups, C // groups, H, W).transpose(1, 2).reshape(N, C, H, W)


def summed(
    mixed: nn.ModuleList,
    cell: CellSpec,
    into: Sequence[int],
    states: Sequence[Tensor],
    weights: Tensor,
    edges: Tensor | None,
    moment: Mix | None,
    kind: str,
) -> Tensor:
    """Equation 1: the mixed operations of the edges `into` a node, added up, each times its edge weight."""
    active: Paths | None = moment.active[kind] if moment and moment.active is not None else None
    total: Tensor | None = None
    for e in into:
        y = mixed[e](states[cell.edges[e][0]], weights[e], moment, None if active is None else active[e])
        term = y if edges is None else edges[e] * y
        total = term if total is None else total + term
    assert total is not None, "every node has an edge"
    return total


class MixedCell(nn.Module):
    """A cell with a mixed operation on every edge (equation 1)."""

    def __init__(self, cell: CellSpec, place: skeleton.Place, partial: int = 1) -> None:
        super().__init__()
        self.cell, self.kind = cell, place.kind
        self.preprocess0, self.preprocess1 = skeleton.preprocess(place, search=True)
        self.edges = nn.ModuleList(
            MixedOperation(cell, e, place.channels, 2 if place.reduces and source < cell.inputs else 1, partial)
            for e, (source, _) in enumerate(cell.edges)
        )

    def forward(
        self, s0: Tensor, s1: Tensor, weights: Tensor, edges: Tensor | None = None, moment: Mix | None = None
    ) -> Tensor:
        """Two states (N, C, H, W), weights (edges, columns), edge weights (edges,) -> the concatenated nodes
        (N, outputs * C, H', W').
        """
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in range(self.cell.nodes):
            into = self.cell.edges_into(node)
            states.append(summed(self.edges, self.cell, into, states, weights, edges, moment, self.kind))
        return torch.cat([states[i] for i in self.cell.output], dim=1)


class Supernet(nn.Module):
    """Stem, stacked mixed cells, global average, linear classifier: `net(x, mix) -> (logits, None)`.

    Args:
        space: kinds of cell; "reduce" may be missing when `reductions` is empty.
        image: (channels, classes) of the data.
        channels, cells, reductions, stem_multiplier, stem_stride: as in `SearchConfig`.
        partial_channels: k, the operations of an edge see one k-th of its channels (PC-DARTS).
        extra_skip: every edge has an auxiliary skip of its own, weighted by `mix.extra_skip` (DARTS-).

    Raises:
        BadInput: the channels are no multiple of `partial_channels`.
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
        partial_channels: int = 1,
        extra_skip: bool = False,
    ) -> None:
        super().__init__()
        self.partial, self.extra = checked_share(channels, partial_channels), extra_skip
        width = stem_multiplier * channels
        self.stem = skeleton.stem(image_channels, width, stem_stride, search=True)
        outputs = {kind: len(cell.output) for kind, cell in space.cells.items()}
        stack = skeleton.places(channels, cells, reductions, width, outputs)
        specs = {kind: with_extra_skip(cell) if extra_skip else cell for kind, cell in space.cells.items()}
        self.cells = nn.ModuleList(MixedCell(specs[place.kind], place, partial_channels) for place in stack)
        self.classifier = nn.Linear(stack[-1].channels * outputs[stack[-1].kind], classes)

    def forward(self, x: Tensor, mix: Mix, carry: Any = None) -> tuple[Tensor, Any]:
        """Images (N, C, H, W) and a mix of (edges, ops) per kind -> logits (N, classes) and the carry, untouched."""
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            kind: str = cell.kind  # type: ignore[assignment]
            s0, s1 = s1, cell(s0, s1, mix.rows(kind, self.extra), mix.edges.get(kind), mix)
        return self.classifier(s1.mean((2, 3))), carry

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names that files hold -> under this net's names: here they are the same."""
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `pack`."""
        return dict(tensors)


def checked_share(channels: int, partial: int) -> int:
    """`partial` if that share of the channels is whole.

    Raises:
        BadInput: it is not.
    """
    if channels % partial:
        fix = f"give channels a multiple of {partial}, or another share"
        raise BadInput("settings", "channels", f"{channels} are no multiple of {partial}", fix)
    return partial


def with_extra_skip(cell: CellSpec) -> CellSpec:
    """The cell with one more column, the auxiliary skip, on every edge."""
    return replace(cell, ops=(*cell.ops, ops.EXTRA), legal=tuple((*row, True) for row in cell.legal))
