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
    width = max(y.shape[1] for y in maps)
    total = torch.zeros((), dtype=weights.dtype, device=weights.device)
    for k, (y, normed) in enumerate(zip(maps, layout.normed, strict=True)):
        y = columns(y, layout, width).to(weights.dtype)
        if normed:
            deviation = (y.var(0, correction=0) + EPS).sqrt()
            y = (y - y.mean(0)) / deviation
        total = total + weights[:, k].repeat_interleave(width // layout.edges) * y
    return total.to(maps[0].dtype)


def forward(weights: Tensor, layout: Layout, maps: Sequence[Tensor]) -> tuple[Tensor, Sums]:
    """weights (edges, K), maps (M, edges * C) or (M, C) -> the sum (M, edges * C), and what the way back needs."""
    width = max(y.shape[1] for y in maps)
    means, inverses, total = [], [], None
    for k, (y, normed) in enumerate(zip(maps, layout.normed, strict=True)):
        y = y.to(weights.dtype)
        zero = y.new_zeros(y.shape[1])
        mean = y.mean(0) if normed else zero
        inverse = (y.var(0, correction=0) + EPS).rsqrt() if normed else zero + 1
        term = columns((y - mean) * inverse, layout, width)
        scaled = term * weights[:, k].repeat_interleave(width // layout.edges)
        total = scaled if total is None else total.add_(scaled)
        means.append(columns(mean[None], layout, width)[0])
        inverses.append(columns(inverse[None], layout, width)[0])
    assert total is not None
    return total.to(maps[0].dtype), Sums(torch.stack(means), torch.stack(inverses))


def backward(
    grad: Tensor, weights: Tensor, layout: Layout, maps: Sequence[Tensor], sums: Sums
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the weights (edges, K) and of each map from that of the sum."""
    rows, width = grad.shape
    channels = width // layout.edges
    g = grad.to(weights.dtype)
    s1 = g.sum(0)
    of_weights, of_maps = [], []
    for k, (y, normed) in enumerate(zip(maps, layout.normed, strict=True)):
        x = (columns(y, layout, width).to(weights.dtype) - sums.mean[k]) * sums.inverse[k]
        s2 = (g * x).sum(0)
        of_weights.append(s2.view(layout.edges, channels).sum(1))
        factor = weights[:, k].repeat_interleave(channels) * sums.inverse[k]
        own = factor * (g - s1 / rows - x * (s2 / rows)) if normed else factor * g
        shared = y.shape[1] != width
        of_maps.append((own.view(rows, layout.edges, channels).sum(1) if shared else own).to(y.dtype))
    return torch.stack(of_weights, 1), of_maps


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
        of_weights, of_maps = ctx.kernels.backward(grad.contiguous(), weights, ctx.layout, maps, Sums(mean, inverse))
        return None, None, of_weights, *of_maps
