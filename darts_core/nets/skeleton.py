"""What supernet and derived network share: the stem, the width and kind of each cell, and the preprocessing of inputs.

Source: DARTS (Liu et al. 2019, section 3.1.1 and appendix A.1): reduction cells double the channels and halve the
image.
"""

from __future__ import annotations

from torch import nn

from darts_core.ops import FactorizedReduce, ReLUConvNorm, norm
from darts_core.stack import Place, places

__all__ = ["Place", "imagenet_stem", "places", "preprocess", "stem"]


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
