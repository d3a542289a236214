"""Second-order gradients of the alphas: through one virtual step of the weights.

    grad_alpha L_val(w', alpha) - xi * d/d_alpha <grad_w L_train(w, alpha), v>,     v = grad_w' L_val(w', alpha)

DARTS (Liu et al. 2019), equations 6 to 8. `unrolled` differentiates the inner product, which is exact;
`unrolled_fd` is the paper's finite difference. The virtual step w' = w - xi * (momentum + grad + decay * w) follows the
authors' code; only its gradient depends on alpha, so both share the formula above.

Recurrent searches clip: w' = w - xi * (c g + decay * w) with c = min(1, clip / |g|). The authors' recurrent code clips
v too, and takes c without its cap where it multiplies the second term, which a small gradient then blows up; and its
virtual step leaves the matrix that embedding and decoder share where it was. Here c is capped and everything steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from darts_core.mix import Alphas
from darts_core.optimise import joint_norm
from darts_core.search.method import Hyper, Hypergrad, Loss, Objective, Weights, first_order
from darts_core.search.option import Choice

Order = Annotated[
    str,
    Choice("1", "2", "exact"),
    "Gradient of the alphas: first order, second order as published, or second order exact.",
]
RADIUS = 0.01  # of the finite difference, over the norm of v: the authors' constant


def clipped_at(largest: float, hypergrad: Hypergrad) -> Hypergrad:
    """A hypergradient whose joint L2 norm over all alphas is at most `largest`; each search has a norm of its own."""

    def clipping(objective: Objective) -> Hyper:
        grads, loss = hypergrad(objective)
        each = len(grads) // objective.searches
        parts = [_clipped(grads[n : n + each], largest) for n in range(0, len(grads), each)]
        return Hyper([g for part in parts for g in part], loss)

    return clipping


def unrolled(objective: Objective) -> Hyper:
    """Exact: the second term of equation 7 by differentiating <grad_w L_train(w, alpha), v> once more."""
    alphas = objective.alphas.leaves()
    weights = {name: w.detach().requires_grad_() for name, w in objective.weights.items()}
    train = objective.train(weights, alphas)
    grads = torch.autograd.grad(train.value, list(weights.values()), create_graph=True, materialize_grads=True)
    found = [g.detach() for g in grads]
    direct, v, loss = _validation(objective, objective.ahead(objective.weights, _clipped(found, objective.clip)))
    v = _through_clip(found, v, objective.clip)
    product = torch.stack([(g * vector).sum() for g, vector in zip(grads, v, strict=True)]).sum()
    implicit = torch.autograd.grad(product, alphas.tensors(), materialize_grads=True)
    return Hyper([d - objective.rate * h for d, h in zip(direct, implicit, strict=True)], loss)


def unrolled_fd(objective: Objective) -> Hyper:
    """As published: equation 8, the central difference with radius 0.01 / |v|.

    Kinks of ReLU and max pooling make it coarse; it is offered because it is what the paper ran.
    """
    weights = {name: w.detach().requires_grad_() for name, w in objective.weights.items()}
    train = objective.train(weights, objective.alphas.copied())  # the alphas are constants here
    grads = torch.autograd.grad(train.value, list(weights.values()), materialize_grads=True)
    direct, v, loss = _validation(objective, objective.ahead(objective.weights, _clipped(grads, objective.clip)))
    factor = _factor(grads, objective.clip) if objective.clip else 1.0  # of the second term, as published
    v = _clipped(v, objective.clip)
    each = len(v) // objective.searches  # every search has a radius of its own
    radii = [RADIUS / joint_norm(v[first : first + each]) for first in range(0, len(v), each)]
    plus, minus = (_alpha_gradient(objective, v, [sign * r for r in radii]) for sign in (1, -1))
    implicit = [factor * (p - n) / (2 * r) for p, n, r in zip(plus, minus, _repeated(radii, len(plus)), strict=True)]
    return Hyper([d - objective.rate * h for d, h in zip(direct, implicit, strict=True)], loss)


def _factor(grads: Sequence[Tensor], limit: float) -> Tensor:
    """c = min(1, limit / |grads|), 0-d."""
    return (limit / (joint_norm(grads) + 1e-6)).clamp(max=1.0)


def _clipped(grads: Sequence[Tensor], limit: float) -> list[Tensor]:
    """`grads` scaled to a joint norm of at most `limit`; 0: as they are."""
    return [_factor(grads, limit) * g for g in grads] if limit else list(grads)


def _through_clip(grads: Sequence[Tensor], v: Sequence[Tensor], limit: float) -> list[Tensor]:
    """v behind the clip -> before it: c (v - u <u, v>) with u = grads / |grads|, where the clip acts; v elsewhere."""
    if not limit:
        return list(v)
    factor, norm = _factor(grads, limit), joint_norm(grads) + 1e-6
    along = sum((g * x).sum() for g, x in zip(grads, v, strict=True)) / (joint_norm(grads) * norm)
    along = torch.where(factor < 1, along, torch.zeros_like(factor))
    return [factor * (x - along * g) for g, x in zip(grads, v, strict=True)]


def _validation(objective: Objective, virtual: Weights) -> tuple[list[Tensor], list[Tensor], Loss]:
    """At the virtual weights: the gradients of L_val for the alphas and for the weights, and the loss."""
    alphas = objective.alphas.leaves()
    weights = {name: w.detach().requires_grad_() for name, w in virtual.items()}
    loss = objective.val(weights, alphas)
    wanted = [*alphas.tensors(), *weights.values()]
    grads = list(torch.autograd.grad(loss.value, wanted, materialize_grads=True))
    split = len(alphas.tensors())
    return grads[:split], grads[split:], loss


def _alpha_gradient(objective: Objective, v: Sequence[Tensor], distances: Sequence[Tensor]) -> list[Tensor]:
    """grad_alpha L_train at w + distance * v, with a distance per search."""
    alphas: Alphas = objective.alphas.leaves()
    far = zip(objective.weights.items(), v, _repeated(distances, len(v)), strict=True)
    moved = {name: w.detach() + distance * d for (name, w), d, distance in far}
    loss = objective.train(moved, alphas)
    return list(torch.autograd.grad(loss.value, alphas.tensors(), materialize_grads=True))


def _repeated(numbers: Sequence[Tensor], count: int) -> list[Tensor]:
    """One number per search -> one per tensor, `count` tensors listed search by search."""
    return [number for number in numbers for _ in range(count // len(numbers))]


HYPERGRADS: Mapping[str, Hypergrad] = {"1": first_order, "2": unrolled_fd, "exact": unrolled}
