"""What supernet and derived network share: the stem, the width and kind of each cell, and the preprocessing of inputs.

Source: DARTS (Liu et al. 2019, section 3.1.1 and appendix A.1): reduction cells double the channels and halve the
image.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from darts_core.ops import FactorizedReduce, ReLUConvNorm, norm


@dataclass(frozen=True)
class Place:
    """Where a cell stands: its kind, channels inside, and channels of its two inputs."""

    kind: str  # "normal" or "reduce"
    channels: int
    before_previous: int  # channels of s0, the output of cell k-2
    previous: int  # channels of s1, the output of cell k-1
    shrunk: bool  # cell k-1 was a reduction, so s0 is twice as large as s1

    @property
    def reduces(self) -> bool:
        return self.kind == "reduce"


def places(
    channels: int, cells: int, reductions: Collection[int], stem: int, outputs: dict[str, int], shrunk: bool = False
) -> list[Place]:
    """The stack: `cells` places behind a stem of `stem` channels.

    Args:
        outputs: kind -> how many states its cell concatenates.
        shrunk: the older input of the first cell is twice as large as the newer one (the ImageNet stem).
    """
    stack, before, previous = [], stem, stem
    for index in range(cells):
        kind = "reduce" if index in reductions else "normal"
        channels = channels * 2 if kind == "reduce" else channels
        stack.append(Place(kind, channels, before, previous, shrunk))
        before, previous, shrunk = previous, channels * outputs[kind], kind == "reduce"
    return stack


def stem(c_in: int, c_out: int, stride: int, search: bool) -> nn.Sequential:
    """3x3 convolution and batch norm with learned scale, no ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), norm(c_out, search, affine=True))


def imagenet_stem(c_in: int, c_out: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Two convolutions of stride 2, whose output is the older input of the first cell, and a third for the newer one.

    Source: the authors' `NetworkImageNet`; 224 pixels become 56 and 28.
    """
    first = nn.Sequential(
        nn.Conv2d(c_in, c_out // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(c_out // 2), nn.ReLU(),
        nn.Conv2d(c_out // 2, c_out, 3, 2, 1, bias=False), nn.BatchNorm2d(c_out),
    )  # fmt: skip
    return first, nn.Sequential(nn.ReLU(), nn.Conv2d(c_out, c_out, 3, 2, 1, bias=False), nn.BatchNorm2d(c_out))


def preprocess(place: Place, search: bool) -> tuple[nn.Module, nn.Module]:
    """Bring both inputs of a cell to its channels, and the older one to the size of the newer."""
    c = place.channels
    first = FactorizedReduce if place.shrunk else ReLUConvNorm
    return first(place.before_previous, c, search=search), ReLUConvNorm(place.previous, c, search=search)
