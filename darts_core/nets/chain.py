"""Chains of inverted residual blocks: the space of ProxylessNAS (Cai, Zhu, Han 2019).

Each edge of the chain is a block of its own: an MBConv with kernel 3, 5 or 7 and expansion 3 or 6, or nothing at all
where the block would keep size and width. The shortcut around such a block belongs to each operation here, so that
"nothing" is the skip connection: with gates that sum to one it is the same function.

The original has 21 searched blocks for ImageNet. Here `cells` counts the blocks, and `reductions` says which of them
halve the image and double the channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from darts_core import ops
from darts_core.errors import BadInput, unknown
from darts_core.genotype import CellGenes, Genotype
from darts_core.mix import Mix
from darts_core.nets import skeleton
from darts_core.space import MBCONV_OPS, CellSpec, SearchSpace
from darts_core.stack import chain_places

KIND = "chain"
HEAD = 4  # the last 1x1 convolution widens the last block by this (ImageNet: 320 to 1280)


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise k x k, 1x1 to `c_out`: a norm after each, ReLU6 after the first
    two; the input is added where it has the output's shape (MobileNetV2, Sandler et al. 2018).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int, search: bool) -> None:
        super().__init__()
        wide = c_in * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(c_in, wide, 1, bias=False), ops.norm(wide, search), nn.ReLU6(),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False), ops.norm(wide, search),
            nn.ReLU6(), nn.Conv2d(wide, c_out, 1, bias=False), ops.norm(c_out, search),
        )  # fmt: skip
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.shortcut else y


def block(op: str, c_in: int, c_out: int, stride: int, search: bool) -> nn.Module:
    """An operation of the chain: "mbconv_5x5_e3" or "skip_connect".

    Raises:
        BadInput: it is no operation of a chain, or a block that changes the shape would be left out.
    """
    if op == "skip_connect":
        if stride != 1 or c_in != c_out:
            fix = "train it with the reductions of its search"
            raise BadInput("genotype", f"cells.{KIND}", "leaves out a block that halves the image", fix)
        return ops.Identity()
    if op not in MBCONV_OPS:
        raise unknown("", "operation", op, MBCONV_OPS)
    kernel, expansion = int(op[7]), int(op[-1])
    return InvertedResidual(c_in, c_out, kernel, expansion, stride, search)


def kept(genes: CellGenes) -> list[int]:
    """The blocks of a derived chain that are there."""
    return [i for i, node in enumerate(genes.nodes) if node and node[0].op != "skip_connect"]


class MixedBlock(nn.Module):
    """All candidates of one block, weighted by one row of the mix."""

    def __init__(self, cell: CellSpec, edge: int, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.columns = [o for o, legal in enumerate(cell.legal[edge]) if legal]
        named = {cell.ops[o]: block(cell.ops[o], c_in, c_out, stride, True) for o in self.columns}
        self.candidates = nn.ModuleDict(named)

    def forward(self, x: Tensor, weights: Tensor, moment: Mix, active: frozenset[int] | None) -> Tensor:
        """x (N, C, H, W), weights (ops,) -> (N, C', H', W')."""
        total = None
        for column, (name, op) in zip(self.columns, self.candidates.items(), strict=True):
            if active is not None and column not in active:
                continue
            y = op(x)
            y = ops.drop_path(y, moment.drop[name]) if name in moment.drop else y
            total = weights[column] * y if total is None else total + weights[column] * y
        assert total is not None, "a block has an operation"
        return total


class _Ends(nn.Module):
    """Stem, last 1x1 convolution and classifier around a chain."""

    def __init__(self, image_channels: int, classes: int, channels: int, last: int, stride: int, search: bool) -> None:
        super().__init__()
        self.stem = skeleton.stem(image_channels, channels, stride, search)
        self.head = nn.Sequential(
            nn.Conv2d(last, HEAD * last, 1, bias=False), ops.norm(HEAD * last, search), nn.ReLU6()
        )
        self.classifier = nn.Linear(HEAD * last, classes)


class ChainSupernet(_Ends):
    """`net(x, mix) -> (logits, None)`. `stem_multiplier` has no meaning here."""

    def __init__(
        self, space: SearchSpace, image_channels: int, classes: int, channels: int = 16, cells: int = 8,
        reductions: tuple[int, ...] = (2, 5), stem_multiplier: int = 1, stem_stride: int = 1, **net: Any,
    ) -> None:  # fmt: skip
        if net:
            what = f"a chain has no form of {', '.join(net)}"
            raise BadInput(
                "settings", "strategy", what, "choose a method that needs no cell structure: darts, proxyless"
            )
        places = chain_places(channels, cells, reductions)
        super().__init__(image_channels, classes, channels, places[-1][1], stem_stride, True)
        cell = space.cells[KIND]
        self.cells = nn.ModuleList(MixedBlock(cell, e, *place) for e, place in enumerate(places))

    def forward(self, x: Tensor, mix: Mix, carry: Any = None) -> tuple[Tensor, Any]:
        """Images (N, C, H, W) and a mix of (blocks, ops) -> logits (N, classes) and the carry, untouched."""
        x = self.stem(x)
        active = mix.active[KIND] if mix.active is not None else None
        for e, mixed in enumerate(self.cells):
            x = mixed(x, mix.ops[KIND][e], mix, None if active is None else active[e])
        return self.classifier(self.head(x).mean((2, 3))), carry

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names that files hold -> under this net's names: here they are the same."""
        return dict(tensors)

    def unpack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `pack`."""
        return dict(tensors)


class ChainNetwork(_Ends):
    """The network of a derived chain: images (N, C, H, W) -> logits (N, classes). Left-out blocks are not there.

    `search=True` builds the supernet's form instead (batch statistics, no learned scale), for its weights.
    """

    def __init__(
        self, genotype: Genotype, image_channels: int, classes: int, channels: int = 16, cells: int = 8,
        reductions: tuple[int, ...] = (2, 5), stem_multiplier: int = 1, stem_stride: int = 1, search: bool = False,
    ) -> None:  # fmt: skip
        places = chain_places(channels, cells, reductions)
        super().__init__(image_channels, classes, channels, places[-1][1], stem_stride, search)
        self.genotype = genotype
        nodes = genotype.cells[KIND].nodes
        if len(nodes) != cells or any(len(node) > 1 for node in nodes):
            what = f"is a chain of {len(nodes)} blocks of one operation each, and the network has {cells} cells"
            raise BadInput("genotype", f"cells.{KIND}", what, f"set cells={len(nodes)}")
        pairs = zip(nodes, places, strict=True)
        built = [block(node[0].op if node else "skip_connect", *p, search) for node, p in pairs]
        self.cells = nn.ModuleList(op for op in built if not isinstance(op, ops.Identity))

    def forward(self, x: Tensor, drop_rate: float = 0.0) -> Tensor:
        x = self.stem(x)
        for op in self.cells:
            y = op(x)
            if self.training and drop_rate > 0 and getattr(op, "shortcut", False):
                y = x + ops.drop_path(y - x, drop_rate)
            x = y
        return self.classifier(self.head(x).mean((2, 3)))
