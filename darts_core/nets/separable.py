"""Separable convolutions of many edges at once, on the CPU: repeat or normalise and ReLU, depthwise, 1x1 in each edge.

`Separable` is one function of the map before it, which is all it keeps for its way back: what a depthwise convolution
sees and gives is computed again there, forward convolutions being ten times cheaper than weight gradients. Those come
from the one depthwise weight gradient that PyTorch's CPU library has a fast kernel for, 3x3 with padding 1
(`benchmarks/LOG.md` has the times):

- dilation 2: with a margin of zeros, two pixels as one pixel of twice the channels and two rows as one row are the
  same numbers in the same places, and a dilated convolution of the first is a plain one of the second;
- 5x5: its taps are those of four 3x3 convolutions on shifted images, and where images lie in one row of memory behind
  one another, margins between them, a shift is another place to begin;
- stride 2: even and odd pixels apart; dilated, a convolution sees the even ones alone;
- small images: taps that lie farther from the middle than the image is wide see margins alone and are left out. What
  is left of a dilated 5x5 on 2x2 pixels is one factor per channel, for which the library takes 30 times as long.

Input gradients at stride 1 are forward convolutions with the taps turned around. Exact up to the order of sums.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from darts_core import ops

EPS = 1e-5  # of batch norm, as in `ops.batch_statistics`
DENSE_AT_MOST = 48  # channels up to which a grouped 1x1 convolution is one dense product
NARROW = 16  # pixels of a row below which a whole image is filled with zeros, not its margins alone
SMALLEST = 25  # pixels of an image below which the library's own weight gradient of a plain 5x5 is faster (LOG.md)


class Form(NamedTuple):
    """What a separable convolution does beside its weights."""

    groups: int  # of the 1x1 convolution: edges, times lanes
    lanes: int  # nets side by side, whose channels lie one behind the other
    stride: int
    dilation: int
    normed: bool  # the input is normalised and passes a ReLU first; it has all channels already

    @property
    def halved(self) -> bool:
        """Stride 2 and dilation 2: a plain convolution of every second pixel."""
        return self.stride == self.dilation == 2


def pointwise(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Grouped 1x1 convolution, weight (groups*C, C, 1, 1). For few channels one dense product with a block-diagonal
    matrix: its extra zeros cost less than the grouped kernel's overhead.
    """
    K = x.shape[1]
    if K > DENSE_AT_MOST or x.is_cuda:
        return F.conv2d(x, weight, groups=groups)
    return F.linear(x.permute(0, 2, 3, 1), _blocks(weight, groups)).permute(0, 3, 1, 2)


def _blocks(weight: Tensor, groups: int) -> Tensor:
    """(K, K/groups, 1, 1) -> the block-diagonal matrix (K, K)."""
    K = weight.shape[0]
    if groups == 1:
        return weight.view(K, K)
    return (weight.view(K, 1, K // groups) * _own(K, groups, weight.dtype, weight.device)).view(K, K)


@lru_cache(maxsize=64)
def _own(K: int, groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(K, groups, 1): 1 where a row belongs to a group."""
    return torch.eye(groups, dtype=dtype, device=device).repeat_interleave(K // groups, 0).unsqueeze(2)


def repeated(x: Tensor, count: int, lanes: int = 1) -> Tensor:
    """(N, lanes*C, H, W) -> (N, lanes*count*C, H, W): each lane's channels `count` times over, channels-last."""
    if count == 1:
        return x
    N, K, H, W = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(N, H, W, lanes, 1, K // lanes).expand(-1, -1, -1, -1, count, -1)
    return rows.reshape(N, H, W, count * K).permute(0, 3, 1, 2)


def composed(x: Tensor, depthwise: Tensor, point: Tensor, form: Form) -> Tensor:
    """What `Separable` computes, out of PyTorch's differentiable parts."""
    if form.normed:
        x = F.relu(ops.batch_statistics(x))
    x = repeated(x, depthwise.shape[0] // x.shape[1], form.lanes)
    padding = form.dilation * (depthwise.shape[-1] - 1) // 2
    y = F.conv2d(x, depthwise, None, form.stride, padding, form.dilation, groups=x.shape[1])
    return pointwise(y, point, form.groups)


class Repeats:
    """An image with its channels repeated, for all `Separable` that see it: made once forward and once on the way back.

    Kept while somebody is still to ask, so that it costs no memory between the two.
    """

    def __init__(self) -> None:
        self.made: dict[int, Tensor] = {}  # channels -> the image
        self.users = 0  # whose way back is still to come

    def of(self, x: Tensor, channels: int, lanes: int) -> Tensor:
        """x (N, lanes*C, H, W) -> (N, channels, H, W)."""
        if channels not in self.made:
            self.made[channels] = repeated(x, channels // x.shape[1], lanes)
        return self.made[channels]

    def done(self) -> None:
        """One of the users has it behind them."""
        self.users -= 1
        if self.users <= 0:
            self.made.clear()


class Separable(torch.autograd.Function):
    """x (N, C or K, H, W), depthwise (K, 1, k, k), point (K, K/groups, 1, 1) -> (N, K, H', W'), channels-last."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, depthwise: Tensor, point: Tensor, form: Form, repeats: Repeats | None = None
    ) -> Tensor:
        mean = inverse = None
        if form.normed:
            z, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, EPS)
            seen = z.relu_()
        else:
            repeats = repeats or Repeats()
            repeats.users += ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
            seen = _seen(x, depthwise.shape[0], form, repeats)
        ctx.save_for_backward(x, depthwise, point, mean, inverse)
        ctx.form, ctx.repeats = form, repeats
        return pointwise(_depthwise(seen, _reaching(depthwise, seen.shape[2:], form), form), point, form.groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), form = grads, ctx.form
        x, depthwise, point, mean, inverse = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a graph of the gradients is asked for: second derivatives
            with torch.enable_grad():
                inputs = [t for t, want in zip((x, depthwise, point), wanted, strict=True) if want]
                total = composed(x, depthwise, point, form)
                found = iter(torch.autograd.grad(total, inputs, grad, create_graph=True))
            return (*(next(found) if want else None for want in wanted), None, None)
        for_x, for_depthwise, for_point = wanted
        K, seen = depthwise.shape[0], None
        if for_depthwise or for_point or form.normed:
            if form.normed:
                variance = inverse.pow(-2) - EPS
                seen = torch.native_batch_norm(x, None, None, mean, variance, False, 0.0, EPS)[0].relu_()
            else:
                seen = _seen(x, K, form, ctx.repeats)
                ctx.repeats.done()
        of_x = of_depthwise = of_point = None
        sides = ((x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2) if form.halved else tuple(x.shape[2:])
        taps = _reaching(depthwise, sides, form)
        if for_point:
            of_point = _pointwise_gradient(grad, _depthwise(seen, taps, form), point, form.groups)  # type: ignore[arg-type]
        grad = _pointwise_back(grad, point, form.groups)
        stride, dilation = (1, 1) if form.halved else (form.stride, form.dilation)
        if for_depthwise:
            of_depthwise = kernel_gradient(grad, seen, taps, stride, dilation)  # type: ignore[arg-type]
            blind = (depthwise.shape[-1] - taps.shape[-1]) // 2
            of_depthwise = F.pad(of_depthwise, [blind] * 4) if blind else of_depthwise
        if for_x:
            of_x = _image_gradient(grad, taps, stride, dilation, sides)
            if form.normed:
                of_x = torch.ops.aten.threshold_backward(of_x, seen, 0)
                masks = [True, False, False]
                of_x = torch.ops.aten.native_batch_norm_backward(
                    of_x, x, None, None, None, mean, inverse, True, EPS, masks
                )[0]
            else:
                of_x = _gathered(of_x, x, form)
        return of_x, of_depthwise, of_point, None, None


def _seen(x: Tensor, channels: int, form: Form, repeats: Repeats) -> Tensor:
    """What the depthwise convolution sees of x, its channels repeated."""
    part = x[:, :, ::2, ::2] if form.halved else x
    if channels == x.shape[1]:
        return part.contiguous(memory_format=torch.channels_last)
    return repeated(part, channels // x.shape[1], form.lanes) if form.halved else repeats.of(x, channels, form.lanes)


def _gathered(grad: Tensor, x: Tensor, form: Form) -> Tensor:
    """The way back through `_seen`."""
    N, K, H, W = grad.shape
    count = K // x.shape[1]
    if count > 1:
        rows = grad.permute(0, 2, 3, 1).view(N, H, W, form.lanes, count, K // (form.lanes * count)).sum(4)
        grad = rows.view(N, H, W, -1).permute(0, 3, 1, 2)
    if not form.halved:
        return grad
    whole = torch.zeros_like(x)
    whole[:, :, ::2, ::2] = grad
    return whole


def _reaching(weight: Tensor, sides: tuple[int, ...], form: Form) -> Tensor:
    """The taps (K, 1, k, k) that see pixels of an image of `sides` and not its margins alone."""
    middle, dilation = weight.shape[-1] // 2, 1 if form.halved else form.dilation
    reach = (max(sides) - 1) // dilation
    if reach >= middle:
        return weight
    seeing = slice(middle - reach, middle + reach + 1)
    return weight[:, :, seeing, seeing]


def _depthwise(seen: Tensor, weight: Tensor, form: Form) -> Tensor:
    """The depthwise convolution of what it sees."""
    if weight.shape[-1] == 1:  # then no stride matters: the image is one pixel, or dilated and as wide as its steps
        return seen * weight.view(1, -1, 1, 1)
    stride, dilation = (1, 1) if form.halved else (form.stride, form.dilation)
    padding = dilation * (weight.shape[-1] - 1) // 2
    return F.conv2d(seen, weight, None, stride, padding, dilation, groups=seen.shape[1])


def _pointwise_back(grad: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The gradient of `pointwise` for its image: the product with the transposed matrices."""
    K = grad.shape[1]
    if K <= DENSE_AT_MOST:
        return torch.matmul(grad.permute(0, 2, 3, 1), _blocks(weight, groups)).permute(0, 3, 1, 2)
    return F.conv2d(grad, turned(weight, groups), groups=groups)


def turned(weight: Tensor, groups: int) -> Tensor:
    """The weight of a grouped 1x1 convolution, (G*O, C, 1, 1), with each group's matrix transposed: (G*C, O, 1, 1)."""
    return weight.view(groups, -1, weight.shape[1]).transpose(1, 2).reshape(-1, weight.shape[0] // groups, 1, 1)


def _pointwise_gradient(grad: Tensor, y: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The gradient of `pointwise` for its weight."""
    K = grad.shape[1]
    if K <= DENSE_AT_MOST:
        whole = grad.permute(0, 2, 3, 1).reshape(-1, K).t() @ y.permute(0, 2, 3, 1).reshape(-1, K)
        return (
            torch.diagonal(whole.view(groups, K // groups, groups, -1), dim1=0, dim2=2)
            .permute(2, 0, 1)
            .reshape(weight.shape)
        )
    return _library(grad, y, weight, 1, 0, 1, groups)


def _library(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, groups: int) -> Tensor:
    """The weight gradient of a convolution, by PyTorch."""
    settings = [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *settings, [False, True, False])[1]


def _image_gradient(grad: Tensor, weight: Tensor, stride: int, dilation: int, sides: tuple[int, ...]) -> Tensor:
    """The gradient of a depthwise convolution for its image of `sides`."""
    padding, K = dilation * (weight.shape[-1] - 1) // 2, weight.shape[0]
    if weight.shape[-1] == 1:
        return grad * weight.view(1, -1, 1, 1)
    if stride == 1:
        return F.conv2d(grad, weight.flip(2, 3), None, 1, padding, dilation, groups=K)
    like = grad.new_empty(1).expand(grad.shape[0], K, *sides)  # the sizes alone
    settings = [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], K
    return torch.ops.aten.convolution_backward(grad, like, weight, None, *settings, [True, False, False])[0]


def kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """The weight gradient (K, 1, k, k) of a depthwise convolution, k 1, 3 or 5, of images of at least one pixel."""
    N, K, H, W = x.shape
    k = weight.shape[-1]
    if k == 1:
        return (grad * x).sum((0, 2, 3)).view(K, 1, 1, 1)
    if stride == 2:
        return _of_phases(grad, x, weight) if k == 5 and dilation == 1 else _plain(grad, x, weight, stride, dilation)
    if dilation == 1 and (k == 3 or H * W < SMALLEST):
        return _plain(grad, x, weight, stride, dilation)
    return _of_shifts(grad, x, weight, dilation)


def _plain(grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] - 1) // 2
    return _library(grad, x, weight, stride, padding, dilation, x.shape[1])


def _of_shifts(grad: Tensor, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Stride 1: images in one row of memory, margins of zeros between them; a 3x3 gradient for each shift."""
    N, K, H, W = x.shape
    k, d = weight.shape[-1], dilation
    reach = d * (k - 1) // 2
    front = reach - d  # zeros before the gradient's rows and columns, so that the kernel's own padding meets none of it
    rows, columns = (-(-(side + reach) // d) * d for side in (H, W))
    count = N * rows * columns  # pixels, margins included
    shift = front * (columns + 1)
    before = -(-shift // (d * columns)) * d * columns
    images, slopes = x.new_empty((before + count + shift) * K), x.new_empty(count * K)
    images[: before * K] = 0
    images[(before + count) * K :] = 0
    for room, image in ((images[before * K : (before + count) * K], x), (slopes, grad)):
        _placed(room.view(N, rows, columns, K), image.permute(0, 2, 3, 1), front)

    high, wide, deep = N * rows // d, columns, d * K  # two pixels as one, two rows as one
    steps = (high * wide * deep, 1, wide * deep, deep)
    like = weight.new_empty(1).expand(deep, 1, 3, 3)

    def three(down: int, right: int) -> Tensor:
        at = (before + down * columns + right) * K
        image, slope = (
            images.as_strided((1, deep, high, wide), steps, at),
            slopes.as_strided((1, deep, high, wide), steps),
        )
        return _library(slope, image, like, 1, 1, 1, deep).view(d, K, 3, 3).sum(0)

    if k == 3:
        return three(0, 0).unsqueeze(1)
    found = weight.new_empty(K, 5, 5)
    for i, down in enumerate((-d, d)):
        for j, right in enumerate((-d, d)):
            found[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] = three(down, right)
    return found.unsqueeze(1)


def _placed(room: Tensor, image: Tensor, front: int) -> None:
    """Copy (N, H, W, K) into the larger `room`, `front` zeros before its rows and columns and zeros behind them."""
    (H, W), middle = image.shape[1:3], slice(front, front + image.shape[1])
    if W < NARROW:
        room.zero_()
    else:  # the margins alone
        room[:, :front] = 0
        room[:, front + H :] = 0
        room[:, middle, :front] = 0
        room[:, middle, front + W :] = 0
    room[:, middle, front : front + W] = image


def _of_phases(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """5x5, stride 2: tap 2t + a of a row sees pixels of parity a alone, one 3x3 gradient for each pair of parities."""
    K, (h, w) = x.shape[1], grad.shape[2:]
    like, found = weight.new_empty(1).expand(K, 1, 3, 3), torch.empty_like(weight)
    for a in (0, 1):
        for b in (0, 1):
            part = x[:, :, a::2, b::2]
            part = F.pad(part, (0, w - part.shape[3], 0, h - part.shape[2])).contiguous(
                memory_format=torch.channels_last
            )
            found[:, :, a::2, b::2] = _library(grad, part, like, 1, 1, 1, K)[:, :, : 3 - a, : 3 - b]
    return found
