"""The weighted sum of normalised maps, sum over k of w[e, k] * norm(y_k), for all edges e that leave a state at once.

It is what stands at the end of every edge of a supernet (equation 2, each operation behind its batch norm). As one
function it keeps the maps before their batch norm and nothing else, and reads each once: the weights' gradient falls
out of the sums that batch norm needs on its way back. With M rows, x the normalised map and g the gradient:

    dL/dw[e, k] = sum over channels of S2,     S1 = sum over rows of g,     S2 = sum over rows of g * x
    dL/dy_k     = w[e, k] / deviation * (g - S1 / M - x * S2 / M),             summed over the edges that share y_k

The formulas are here in plain PyTorch; `weighted_triton.py` holds the same two functions as GPU kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

EPS = 1e-5  # of batch norm, as in `ops.batch_statistics`


class Layout(NamedTuple):
    """Which maps are normalised, and how many edges there are. A map of C columns is shared by all edges."""

    normed: tuple[bool, ...]
    edges: int


class Sums(NamedTuple):
    """What the forward pass keeps beside the maps, (K, edges * C) each; zeros and ones for maps not normalised."""

    mean: Tensor
    inverse: Tensor  # of the deviation


def columns(y: Tensor, layout: Layout, width: int) -> Tensor:
    """A shared map, repeated for every edge; others as they are: (M, edges * C)."""
    return y if y.shape[1] == width else y.repeat(1, layout.edges)


def composed(weights: Tensor, layout: Layout, maps: Sequence[Tensor]) -> Tensor:
    """The same function out of PyTorch's differentiable parts: what the fused forms are tested against, and where
    second derivatives go.
    """
    width, kind = max(y.shape[1] for y in maps), _kind(weights, maps)
    total = torch.zeros((), dtype=kind, device=weights.device)
    for k, (y, normed) in enumerate(zip(maps, layout.normed, strict=True)):
        y = columns(y, layout, width).to(kind)
        if normed:
            deviation = (y.var(0, correction=0) + EPS).sqrt()
            y = (y - y.mean(0)) / deviation
        total = total + weights[:, k].repeat_interleave(width // layout.edges) * y
    return total.to(maps[0].dtype)


def forward(weights: Tensor, layout: Layout, maps: Sequence[Tensor]) -> tuple[Tensor, Sums]:
    """weights (edges, K), maps (M, edges * C) or (M, C) -> the sum (M, edges * C), and what the way back needs.

    Batch norm is an affine function of each column, so a map is read twice: for its moments, and to be added.
    """
    rows, width = maps[0].shape[0], max(y.shape[1] for y in maps)
    edges, channels, kind = layout.edges, width // layout.edges, _kind(weights, maps)
    given, maps = maps[0].dtype, [y.to(kind) for y in maps]
    means, variances = [], []
    for y, normed in zip(maps, layout.normed, strict=True):
        zero = y.new_zeros(channels)
        moments = torch.batch_norm_update_stats(_image(y), None, None, 0.0) if normed else (zero, zero)
        for found, moment in zip((means, variances), moments, strict=True):
            found.append(moment.view(-1, channels).expand(edges, channels))
    mean, inverse = torch.stack(means), (torch.stack(variances) + EPS).rsqrt_()  # (K, edges, C)
    for k, normed in enumerate(layout.normed):
        if not normed:
            inverse[k] = 1
    factors = weights.t().unsqueeze(2) * inverse
    total = -(factors * mean).sum(0)
    for k, (y, factor) in enumerate(zip(maps, factors.unbind(), strict=True)):
        y = y.view(rows, -1, channels)
        total = total.addcmul_(y, factor) if k else torch.addcmul(total, y, factor)
    return total.reshape(rows, width).to(given), Sums(mean.view(-1, width), inverse.view(-1, width))


def backward(
    grad: Tensor, weights: Tensor, layout: Layout, maps: Sequence[Tensor], sums: Sums, wanted: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of the weights (edges, K) and of each map from that of the sum, where they are `wanted`."""
    rows, width = grad.shape
    edges, channels, kind = layout.edges, width // layout.edges, _kind(weights, maps)
    given, maps, grad = maps[0].dtype, [y.to(kind) for y in maps], grad.to(kind)
    factors = weights.to(kind).t().repeat_interleave(channels, 1)  # (K, edges * C)
    shared = [k for k, y in enumerate(maps) if y.shape[1] != width]
    of_weights: list[Any] = [None] * len(maps)  # by channels (width), or by edges
    of_maps: list[Any] = [None] * len(maps)
    for k, (y, scale) in enumerate(zip(maps, factors.unbind(), strict=True)):
        if k in shared:
            continue
        if layout.normed[k]:
            of_maps[k], of_weights[k] = _norm_back(
                grad, y, scale, sums.mean[k], sums.inverse[k], [wanted[1 + k], wanted[0]]
            )
        else:
            of_maps[k] = grad * scale if wanted[1 + k] else None
            of_weights[k] = (grad * y).sum(0) if wanted[0] else None
    if shared:  # what edges do to a map that they share are small products over all pixels
        apart = grad.view(rows, edges, channels).transpose(0, 1).reshape(edges, -1)  # (edges, M * C)
        own = [(sums.mean[k, :channels], sums.inverse[k, :channels]) for k in shared]
        images = [(maps[k] - m) * r if layout.normed[k] else maps[k] for k, (m, r) in zip(shared, own, strict=True)]
        slopes = (weights[:, shared].to(kind).t() @ apart).view(len(shared), rows, channels)
        products = apart @ torch.stack(images).view(len(shared), -1).t() if wanted[0] else None
        for n, (k, (_, r), z) in enumerate(zip(shared, own, images, strict=True)):
            of_weights[k] = None if products is None else products[:, n]
            if wanted[1 + k] and layout.normed[k]:  # z has mean 0 and deviation 1
                of_maps[k] = _norm_back(slopes[n], z, r, torch.zeros_like(r), torch.ones_like(r), [True, False])[0]
            elif wanted[1 + k]:
                of_maps[k] = slopes[n]
    found = [None if slope is None else slope.to(given) for slope in of_maps]
    if not wanted[0]:
        return None, found
    by_edges = [t if k in shared else t.view(edges, channels).sum(1) for k, t in enumerate(of_weights)]
    return torch.stack(by_edges, 1).to(weights.dtype), found


def _kind(weights: Tensor, maps: Sequence[Tensor]) -> torch.dtype:
    """Sums are in the finer type of the two: maps may be bfloat16, or weights float32 beside maps in float64."""
    return torch.promote_types(weights.dtype, maps[0].dtype)


def _image(y: Tensor) -> Tensor:
    """(M, C) -> a view (1, C, M, 1), channels-last, as PyTorch's batch norm reads it fastest."""
    return y.view(1, *y.shape, 1).transpose(1, 2)


def _norm_back(g: Tensor, y: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor, wanted: list[bool]) -> list[Any]:
    """The way back through scale * (y - mean) * inverse: the gradients of y (M, C) and of the scale (C), as wanted."""
    found = torch.ops.aten.native_batch_norm_backward(
        _image(g), _image(y), scale, None, None, mean, inverse, True, EPS, [*wanted, False]
    )
    return [found[0].transpose(1, 2).view(y.shape) if wanted[0] else None, found[1] if wanted[1] else None]


class WeightedNorms(torch.autograd.Function):
    """`composed` with the two functions above or, where `kernels` says so, with those of `weighted_triton`."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, layout: Layout, weights: Tensor, *maps: Tensor) -> Tensor:  # type: ignore[override]
        total, sums = kernels.forward(weights, layout, maps)
        ctx.kernels, ctx.layout = kernels, layout
        ctx.save_for_backward(weights, *sums, *maps)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        weights, mean, inverse, *maps = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradients is asked for: second derivatives
            with torch.enable_grad():
                inputs = [t for t, want in zip((weights, *maps), ctx.needs_input_grad[2:], strict=True) if want]
                total = composed(weights, ctx.layout, maps)
                found = iter(torch.autograd.grad(total, inputs, grad, create_graph=True, materialize_grads=True))
            return None, None, *(next(found) if want else None for want in ctx.needs_input_grad[2:])
        wanted = ctx.needs_input_grad[2:]
        found = ctx.kernels.backward(grad.contiguous(), weights, ctx.layout, maps, Sums(mean, inverse), wanted)
        return None, None, found[0], *found[1]
