"""The candidate operations of the convolutional spaces, as small modules of (N, C, H, W) tensors.

Source: DARTS (Liu et al. 2019, section 3.1.1) and the authors' code, constants and order of layers included. All
convolutions are without bias. `search=True` builds the form of the supernet: batch norm without learned scale, always
with batch statistics (paper, section 3.1.1), and a batch norm behind each pool; otherwise the form of the derived
network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darts_core.errors import unknown


class BatchStatistics(nn.BatchNorm2d):
    """Batch norm without learned scale or running statistics: the supernet's, in training and evaluation alike.

    The original tracks running statistics in the search too, but no gradient and no derived cell ever depends on them;
    without them an evaluation of the supernet leaves no trace.
    """

    def __init__(self, channels: int, affine: bool = False) -> None:
        super().__init__(channels, affine=affine, track_running_stats=False)

    def forward(self, input: Tensor) -> Tensor:
        return batch_statistics(input, self.weight, self.bias)


def batch_statistics(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """(N, C, H, W) normalised per channel over the batch, eps 1e-5; a single value per channel becomes 0 (it is its
    mean).
    """
    if x.numel() == x.shape[1]:
        return x * 0 if bias is None else x * 0 + bias.view(1, -1, 1, 1)
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)


def norm(channels: int, search: bool, affine: bool | None = None) -> nn.Module:
    """Batch norm in the supernet's form (`search`) or in the derived network's."""
    return BatchStatistics(channels, bool(affine)) if search else nn.BatchNorm2d(channels)


class Zero(nn.Module):
    """`none`: zeros of the output's shape (paper: a lack of connection)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0


class Noise(nn.Module):
    """Standard normal noise of the output's shape, whatever the input: the useless operation of S4 (RobustDARTS)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class ReLUConvNorm(nn.Sequential):
    """ReLU, convolution, batch norm."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, padding: int = 0, search: bool = False
    ) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False), norm(c_out, search))


class SeparableConv(nn.Sequential):
    """ReLU, depthwise, pointwise, batch norm, applied twice; the second time with stride 1 (paper: "always applied
    twice").
    """

    def __init__(self, channels: int, kernel: int, stride: int, search: bool) -> None:
        once = [_depthwise_separable(channels, kernel, s, 1, search) for s in (stride, 1)]
        super().__init__(*[layer for layers in once for layer in layers])


class DilatedConv(nn.Sequential):
    """ReLU, depthwise with dilation 2, pointwise, batch norm: once."""

    def __init__(self, channels: int, kernel: int, stride: int, search: bool) -> None:
        super().__init__(*_depthwise_separable(channels, kernel, stride, 2, search))


def _depthwise_separable(channels: int, kernel: int, stride: int, dilation: int, search: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        _depthwise(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels, search),
    ]


def _depthwise(channels: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    """One filter per channel, padded so that stride 1 keeps the size."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


class SharpSeparableConv(nn.Sequential):
    """The block of sharpDARTS (Hundt, Jain, Hager 2019, and their code): a separable convolution whose middle has
    `middle` channels; only the first depthwise convolution strides and dilates.
    """

    def __init__(self, channels: int, middle: int, kernel: int, stride: int, dilation: int, search: bool) -> None:
        super().__init__(
            nn.ReLU(),
            _depthwise(channels, kernel, stride, dilation),
            nn.Conv2d(channels, middle, 1, bias=False),
            norm(middle, search),
            nn.ReLU(),
            _depthwise(middle, kernel, 1, 1),
            nn.Conv2d(middle, channels, 1, bias=False),
            norm(channels, search),
        )


class FactorizedReduce(nn.Module):
    """Halve the image: two 1x1 convolutions of stride 2, the second on the image shifted by one pixel; then batch norm.

    At an odd size the authors' two halves differ by a pixel and cannot be joined; here the shifted image is first
    padded with one row and column of zeros, so every size works and even sizes are unchanged.
    """

    def __init__(self, c_in: int, c_out: int, search: bool = False) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, stride=2, bias=False)
        self.bn = norm(c_out, search)

    def forward(self, x: Tensor) -> Tensor:
        x, shifted = reduction_halves(F.relu(x))
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))


def reduction_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the two convolutions of a factorised reduction see: the image, and the image shifted by one pixel."""
    height, width = x.shape[2:]
    return x, F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]


class Identity(nn.Identity):
    """The skip connection at stride 1; a type of its own, because drop path leaves identities alone."""


class FactorizedConv(nn.Sequential):
    """ReLU, 1x7 and 7x1 convolution over all channels, batch norm (NASNet and AmoebaNet; each halves one side)."""

    def __init__(self, channels: int, stride: int, search: bool) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
            norm(channels, search),
        )


def _pool(pool: nn.Module, channels: int, search: bool) -> nn.Module:
    return nn.Sequential(pool, norm(channels, True)) if search else pool


class ResidualReduction(nn.Module):
    """Halve the image between stages of NAS-Bench-201 (Dong and Yang 2020, section 2.1): two 3x3 convolutions,
    the first of stride 2, beside a 2x2 mean and a 1x1 convolution. At odd sizes the last row and column have means of
    fewer pixels (the original's branches would not fit each other).
    """

    def __init__(self, c_in: int, c_out: int, search: bool) -> None:
        super().__init__()
        self.first = ReLUConvNorm(c_in, c_out, 3, 2, 1, search)
        self.second = ReLUConvNorm(c_out, c_out, 3, 1, 1, search)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.shortcut(x)


EXTRA = "extra_skip"  # the auxiliary skip of a supernet: a column of its own, which no alpha belongs to
Build = Callable[[int, int, bool], nn.Module]  # (channels, stride, search) -> module
CHOKE = 32  # channels in the middle of sharpDARTS' choke convolutions, however wide the cell
FLOOD = 4  # times the channels, in the middle of its flood convolutions


def _sharp(kernel: int, dilation: int, middle: Callable[[int], int]) -> Build:
    """A block of sharpDARTS; `middle`: of the cell's channels, those in its middle."""
    return lambda c, s, search: SharpSeparableConv(c, middle(c), kernel, s, dilation, search)


OPS: dict[str, Build] = {
    "none": lambda c, s, search: Zero(s),
    "max_pool_3x3": lambda c, s, search: _pool(nn.MaxPool2d(3, s, 1), c, search),
    "avg_pool_3x3": lambda c, s, search: _pool(nn.AvgPool2d(3, s, 1, count_include_pad=False), c, search),
    "skip_connect": lambda c, s, search: Identity() if s == 1 else FactorizedReduce(c, c, search),
    "sep_conv_3x3": lambda c, s, search: SeparableConv(c, 3, s, search),
    "sep_conv_5x5": lambda c, s, search: SeparableConv(c, 5, s, search),
    "dil_conv_3x3": lambda c, s, search: DilatedConv(c, 3, s, search),
    "dil_conv_5x5": lambda c, s, search: DilatedConv(c, 5, s, search),
    "sep_conv_7x7": lambda c, s, search: SeparableConv(c, 7, s, search),
    "conv_7x1_1x7": lambda c, s, search: FactorizedConv(c, s, search),
    "noise": lambda c, s, search: Noise(s),
    "nor_conv_1x1": lambda c, s, search: ReLUConvNorm(c, c, 1, s, 0, search),
    "nor_conv_3x3": lambda c, s, search: ReLUConvNorm(c, c, 3, s, 1, search),
    "sharp_avg_pool_3x3": lambda c, s, search: _pool(nn.AvgPool2d(3, s, 1), c, search),  # counts the padding
    "sharp_dil_conv_3x3": _sharp(3, 2, lambda c: c),
    "sharp_dil_conv_5x5": _sharp(5, 2, lambda c: c),
    "flood_conv_3x3": _sharp(3, 1, lambda c: FLOOD * c),
    "flood_conv_5x5": _sharp(5, 1, lambda c: FLOOD * c),
    "dil_flood_conv_3x3": _sharp(3, 2, lambda c: FLOOD * c),
    "choke_conv_3x3": _sharp(3, 1, lambda c: CHOKE),
    "dil_choke_conv_3x3": _sharp(3, 2, lambda c: CHOKE),
}


def build(op: str, channels: int, stride: int, search: bool) -> nn.Module:
    """The module of operation `op` with `channels` in and out.

    Raises:
        BadInput: the operation is unknown.
    """
    op = plain(op)
    if op not in OPS:
        raise unknown("", "operation", op, OPS)
    return OPS[op](channels, stride, search)


def plain(op: str) -> str:
    """The operation that a column of a supernet computes: its auxiliary skip (DARTS-) is a skip connection."""
    return "skip_connect" if op == EXTRA else op


def drop_path(x: Tensor, rate: Tensor | float) -> Tensor:
    """Zero whole samples of (N, C, H, W) with probability `rate` and scale the others by 1 / (1 - rate)."""
    keep = 1 - rate
    mask = (torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) < keep).to(x.dtype)
    return x / keep * mask
