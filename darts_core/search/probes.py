"""Measurements at the end of an epoch. A probe leaves no trace: it sees pure functions and returns floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from darts_core.mix import Alphas, Mix

MixLoss = Callable[[Mix], Tensor]  # the validation loss on a fixed batch, at fixed weights
NULL = 1e-9  # of the largest singular value: directions below leave the mix where it is


class Probed(NamedTuple):
    """What a Hessian is taken over: loss(relax(alphas)), and the weight decay of the alphas."""

    relax: Callable[[Alphas], Mix]
    alphas: Alphas
    decay: float = 0.0


def alpha_hessian(loss: MixLoss, relax: Callable[[Alphas], Mix], alphas: Alphas, decay: float = 0.0) -> np.ndarray:
    """The Hessian of loss(relax(alphas)) over all legal operation logits, exact, (entries, entries), symmetric.

    By the chain rule, with m the entries of the mix, J = dm/d_alpha and Q an orthonormal basis of what J reaches:

        H = (Q'J)' (Q' d2L/dm2 Q) (Q'J) + sum over k of dL/dm_k d2m_k/d_alpha2

    Only the columns of Q cost a backward pass through the network: of a softmax one less per edge than it has
    operations, since a shift of all its logits changes nothing. The alphas' weight decay stands on the diagonal, as in
    the RobustDARTS code (Zela et al. 2020, section 4). Entries are ordered by kind, edge, operation.
    """
    return alpha_hessians(lambda mixes: loss(mixes[0]), [Probed(relax, alphas, decay)])[0]


def alpha_hessians(loss: Callable[[list[Mix]], Tensor], probed: Sequence[Probed], threads: int = 1) -> list[np.ndarray]:
    """`alpha_hessian` of several searches at once; `loss` is the sum of their losses, from one pass.

    No search knows of another's alphas, so the sum's second derivatives are those of each in blocks, and a backward
    pass along a direction of every search gives a column of each. Columns are divided over `threads`, which changes
    no number.
    """
    spans = [_Span(one) for one in probed]
    points = [p for span in spans for p in span.points]
    total = loss([span.mix for span in spans])
    found = torch.autograd.grad(total, points, create_graph=True, materialize_grads=True)
    slopes = _of_each(spans, found)

    def column(k: int) -> list[Tensor]:
        """Column k of Q' d2L/dm2 of each search; of those that have no more, zeros."""
        along = [slope @ span.basis[:, k] for slope, span in zip(slopes, spans, strict=True) if k < span.rank]
        second = torch.autograd.grad(torch.stack(along).sum(), points, retain_graph=True, materialize_grads=True)
        return [span.basis.T @ g for span, g in zip(spans, _of_each(spans, second), strict=True)]

    with ThreadPoolExecutor(threads) as pool:
        columns = list((pool.map if threads > 1 else map)(column, range(max(span.rank for span in spans))))
    bends = (torch.stack(rows[: span.rank]) for span, rows in zip(spans, zip(*columns, strict=True), strict=True))
    return [
        span.hessian(slope.detach(), bend, one.decay)
        for one, span, slope, bend in zip(probed, spans, slopes, bends, strict=True)
    ]


class _Span:
    """The mix of one search as `alpha_hessian` sees it: m, J and Q."""

    def __init__(self, probed: Probed) -> None:
        alphas = probed.alphas
        wide = alphas.replaced([a.double() for a in alphas.tensors()]).leaves()  # J is small, its rank must be clear
        self.logits = list(wide.ops.values())
        self.legal = torch.cat([wide.legal[kind].reshape(-1) for kind in wide.ops])
        mix = probed.relax(wide)
        moving = [m for m in _tensors(mix) if m.requires_grad]
        self.flat = torch.cat([m.reshape(-1) for m in moving])  # m
        self.jacobian = torch.stack([_flat_gradient(entry, self.logits) for entry in self.flat])[:, self.legal]
        u, sizes, _ = torch.linalg.svd(self.jacobian, full_matrices=False)
        self.basis = u[:, sizes > NULL * sizes.max()]  # Q
        self.rank = self.basis.shape[1]
        self.points = [m.detach().requires_grad_() for m in moving]
        self.mix = _with(mix, moving, self.points)  # the same, at which the network is differentiated

    def hessian(self, slope: Tensor, bend: Tensor, decay: float) -> np.ndarray:
        """From dL/dm and Q' d2L/dm2 Q."""
        reach = self.basis.T @ self.jacobian
        hessian = reach.T @ bend @ reach
        steepness = _flat_gradient(self.flat @ slope, self.logits, create_graph=True)[self.legal]
        if steepness.requires_grad:  # the mix is no linear function of the logits
            hessian = hessian + torch.stack([_flat_gradient(row, self.logits)[self.legal] for row in steepness])
        numbers = hessian.detach().cpu().numpy()
        return (numbers + numbers.T) / 2 + decay * np.eye(len(numbers))


def _of_each(spans: Sequence[_Span], found: Sequence[Tensor]) -> list[Tensor]:
    """Gradients at the points of all, in one list -> those of each in one row."""
    rest = iter(found)
    return [torch.cat([next(rest).reshape(-1) for _ in span.points]) for span in spans]


def _flat_gradient(value: Tensor, at: Sequence[Tensor], create_graph: bool = False) -> Tensor:
    """Of the 0-d `value`, all entries in one row. Its graph stays."""
    grads = torch.autograd.grad(value, at, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in grads])


def _tensors(mix: Any) -> list[Tensor]:
    """Every tensor of a mix, field by field."""
    found = [list(field.values()) if isinstance(field, Mapping) else [field] for field in mix]
    return [t for field in found for t in field if isinstance(t, Tensor)]


def _with(mix: Any, old: Sequence[Tensor], new: Sequence[Tensor]) -> Any:
    """The same mix with some tensors exchanged."""
    others = {id(was): now for was, now in zip(old, new, strict=True)}
    place = lambda t: others.get(id(t), t)  # noqa: E731
    return type(mix)(
        *({key: place(t) for key, t in field.items()} if isinstance(field, Mapping) else place(field) for field in mix)
    )


def dominant_eigenvalue(hessian: np.ndarray) -> float:
    """The largest eigenvalue (not the largest in magnitude), as RobustDARTS takes it."""
    return float(np.linalg.eigvalsh(hessian)[-1])


def rise_above_minimum(history: Sequence[Mapping], now: float) -> float:
    """How far the validation loss stands above the lowest of this search so far (same unit as the loss, at least 0)."""
    return now - min([now, *(epoch["metrics"]["valid_loss"] for epoch in history)])
