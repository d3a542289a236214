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
    edges, kind = layout.edges, _kind(weights, maps)
    means, inverses = [], []
    for y, normed in zip(maps, layout.normed, strict=True):
        mean, inverse = _moments(y.to(kind)) if normed else (y.new_zeros(1, dtype=kind), y.new_ones(1, dtype=kind))
        means.append(mean.expand(width) if len(mean) == 1 else columns(mean[None], layout, width)[0])
        inverses.append(inverse.expand(width) if len(inverse) == 1 else columns(inverse[None], layout, width)[0])
    sums = Sums(torch.stack(means), torch.stack(inverses))
    factors = weights.t().repeat_interleave(width // edges, 1) * sums.inverse  # (K, edges * C)
    total = -(factors * sums.mean).sum(0).view(edges, -1)
    for k, y in enumerate(maps):
        y, factor = y.view(rows, -1, width // edges).to(kind), factors[k].view(edges, -1)
        total = total.addcmul_(y, factor) if k else torch.addcmul(total, y, factor)
    return total.view(rows, width).to(maps[0].dtype), sums


def backward(
    grad: Tensor, weights: Tensor, layout: Layout, maps: Sequence[Tensor], sums: Sums, wanted: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of the weights (edges, K) and of each map from that of the sum, where they are `wanted`."""
    rows, width = grad.shape
    edges, channels, kind = layout.edges, width // layout.edges, _kind(weights, maps)
    g, given, weights = grad.to(kind), weights.dtype, weights.to(kind)
    of_weights: list[Tensor | None] = [None] * len(maps)
    of_maps: list[Tensor | None] = [None] * len(maps)
    shared = [k for k, y in enumerate(maps) if y.shape[1] != width]
    if shared:  # (edges, M * C): what edges do to shared maps are small products over all pixels
        apart = g.view(rows, edges, channels).transpose(0, 1).reshape(edges, -1)
        own = [sums.mean[k, :channels] for k in shared], [sums.inverse[k, :channels] for k in shared]
        images = [
            (maps[k].to(kind) - m) * r if layout.normed[k] else maps[k].to(kind)
            for k, m, r in zip(shared, *own, strict=True)
        ]
        if wanted[0]:
            products = apart @ torch.stack(images).view(len(shared), -1).t()
            for k, column in zip(shared, products.unbind(1), strict=True):
                of_weights[k] = column
        slopes = (weights[:, shared].t() @ apart).view(len(shared), rows, channels)
        for k, slope, z, r in zip(shared, slopes, images, own[1], strict=True):
            if wanted[1 + k]:
                one, nothing = torch.ones_like(r), torch.zeros_like(r)
                of_maps[k] = _norm_back(slope, z, r, nothing, one, True, False)[0] if layout.normed[k] else slope
    for k, (y, normed) in enumerate(zip(maps, layout.normed, strict=True)):
        if k in shared:
            continue
        scale = weights[:, k].repeat_interleave(channels)
        if normed:
            of_maps[k], found = _norm_back(
                g, y.to(kind), scale, sums.mean[k], sums.inverse[k], wanted[1 + k], wanted[0]
            )
        else:
            of_maps[k] = g * scale if wanted[1 + k] else None
            found = (g * y).sum(0) if wanted[0] else None
        of_weights[k] = None if found is None else found.view(edges, channels).sum(1)
    for k, y in enumerate(maps):
        found = of_maps[k]
        of_maps[k] = None if found is None else found.to(y.dtype)
    return torch.stack(of_weights, 1).to(given) if wanted[0] else None, of_maps  # type: ignore[arg-type]


def _kind(weights: Tensor, maps: Sequence[Tensor]) -> torch.dtype:
    """Sums are in the finer type of the two: maps may be bfloat16, or weights float32 beside maps in float64."""
    return torch.promote_types(weights.dtype, maps[0].dtype)


def _image(y: Tensor) -> Tensor:
    """(M, C) -> a view (1, C, M, 1), channels-last, as PyTorch's batch norm reads it fastest."""
    return y.view(1, *y.shape, 1).transpose(1, 2)


def _moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of each column of (M, C)."""
    mean, variance = torch.batch_norm_update_stats(_image(y), None, None, 0.0)
    return mean, (variance + EPS).rsqrt()


def _norm_back(
    g: Tensor, y: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor, for_map: bool, for_scale: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The way back through scale * (y - mean) * inverse: the gradients of y (M, C) and of the scale (C)."""
    wanted = [for_map, for_scale, False]
    of_map, of_scale, _ = torch.ops.aten.native_batch_norm_backward(
        _image(g), _image(y), scale, None, None, mean, inverse, True, EPS, wanted
    )
    return of_map.transpose(1, 2).view(y.shape) if for_map else None, of_scale if for_scale else None


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
