"""Measurements at the end of an epoch. A probe leaves no trace: it sees pure functions and returns floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darts_core.mix import Alphas, Mix

MixLoss = Callable[[Mix], Tensor]  # the validation loss on a fixed batch, at fixed weights
NULL = 1e-9  # of the largest singular value: directions below leave the mix where it is


def alpha_hessian(loss: MixLoss, relax: Callable[[Alphas], Mix], alphas: Alphas, decay: float = 0.0) -> np.ndarray:
    """The Hessian of loss(relax(alphas)) over all legal operation logits, exact, (entries, entries), symmetric.

    By the chain rule, with m the entries of the mix, J = dm/d_alpha and Q an orthonormal basis of what J reaches:

        H = (Q'J)' (Q' d2L/dm2 Q) (Q'J) + sum over k of dL/dm_k d2m_k/d_alpha2

    Only the columns of Q cost a backward pass through the network: of a softmax one less per edge than it has
    operations, since a shift of all its logits changes nothing. The alphas' weight decay stands on the diagonal, as in
    the RobustDARTS code (Zela et al. 2020, section 4). Entries are ordered by kind, edge, operation.
    """
    wide = alphas.replaced([a.double() for a in alphas.tensors()]).leaves()  # J is small, and its rank must be clear
    logits = list(wide.ops.values())
    legal = torch.cat([wide.legal[kind].reshape(-1) for kind in wide.ops])
    mix = relax(wide)
    moving = [m for m in _tensors(mix) if m.requires_grad]
    flat = torch.cat([m.reshape(-1) for m in moving])
    jacobian = torch.stack([_flat_gradient(entry, logits) for entry in flat])[:, legal]

    points = [m.detach().requires_grad_() for m in moving]
    found = torch.autograd.grad(loss(_with(mix, moving, points)), points, create_graph=True, materialize_grads=True)
    slope = torch.cat([g.reshape(-1) for g in found])
    u, sizes, _ = torch.linalg.svd(jacobian, full_matrices=False)
    basis = u[:, sizes > NULL * sizes.max()]  # Q
    bend = torch.stack([basis.T @ _flat_gradient(slope @ q, points) for q in basis.T])
    reach = basis.T @ jacobian
    hessian = reach.T @ bend @ reach

    steepness = _flat_gradient(flat @ slope.detach(), logits, create_graph=True)[legal]
    if steepness.requires_grad:  # the mix is no linear function of the logits
        hessian = hessian + torch.stack([_flat_gradient(row, logits)[legal] for row in steepness])
    numbers = hessian.detach().cpu().numpy()
    return (numbers + numbers.T) / 2 + decay * np.eye(len(numbers))


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
